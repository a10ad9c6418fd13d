"""The compiler: an ONNX model -> a program for a machine.

program = compile_model("llama.onnx", machine="mtia-2i", dims={"batch": 1, "sequence": 1, "past": (0, 4096)})

The same in two steps, the first of which asks no machine, so that it need not be repeated for the next one:

graph = fuse_model("llama.onnx", dims={"batch": 1, "sequence": 1, "past": 4096})
program = compile_graph(graph, machine="mtia-2i")

For many machines, of which some look the same to the compiler, `GraphCompiler(graph).program(machine)` makes fewer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

    from compiler.autotune import Autotuner
    from compiler.graph import Graph
    from compiler.graph_compiler import GraphCompiler
    from compiler.pipeline import Options, Pass
    from isa.machine import Machine
    from isa.program import Program

__all__ = ["Autotuner", "GraphCompiler", "compile_graph", "compile_model", "fuse_model"]

DTYPES = ("fp16", "bf16", "fp32")
"""Element types of weights and activations that a model can be compiled for."""


def __getattr__(name: str) -> object:
    if name == "Autotuner":
        from compiler.autotune import Autotuner

        return Autotuner
    if name == "GraphCompiler":
        from compiler.graph_compiler import GraphCompiler

        return GraphCompiler
    raise AttributeError(f"module 'compiler' has no attribute '{name}'")


def compile_model(
    model: str | Path | onnx.ModelProto,
    machine: str | Path | Machine = "mtia-2i",
    dtype: str = "fp16",
    dims: Mapping[str, int | tuple[int, int]] | None = None,
    ignore_capacity: bool = False,
    quantize: str | None = None,
    group_size: int | None = None,
    separate_launches: bool = False,
    autotuner: Autotuner | None = None,
) -> Program:
    """Compile an ONNX file or model, or a checkpoint directory.

    `dims` gives named dims a size, or (for a cache length) a range (low, high).

    `machine` is a preset, a TOML file or a Machine; `dtype` (fp16, bf16 or fp32) is that of weights and activations.
    `quantize` (int8, fp8 or int4) gives float weights fewer bits, int4 ones a scale per `group_size` elements of K.
    `separate_launches` keeps a launch for each operation: nothing is loaded ahead of the one before; it is slower.
    `autotuner` measures mappings that would else be chosen by estimate: `Autotuner(8, simulated_cycles)`.
    Raises a ToolError that says where, what and what to do for a model that cannot be compiled.
    """
    from compiler.pipeline import BACK, FRONT

    options = _options(machine, dtype, dims or {}, ignore_capacity, quantize, group_size, separate_launches, autotuner)
    return _program((*FRONT, *BACK), _imported(model, dtype), options)


def fuse_model(
    model: str | Path | onnx.ModelProto, dims: Mapping[str, int | tuple[int, int]] | None = None, dtype: str = "fp16"
) -> Graph:
    """Return the fused graph of an ONNX file or model, or a checkpoint directory: what `compile_graph` takes.

    `dims` as for `compile_model`; `dtype` is the type of logits and caches of a checkpoint. No machine is asked. Raises
    a ToolError as `compile_model` does.
    """
    from compiler import frontend
    from compiler.verify import verify

    graph = frontend.fuse_model(_imported(model, dtype), dims or {})
    verify(graph)
    return graph


def compile_graph(
    graph: Graph,
    machine: str | Path | Machine = "mtia-2i",
    dtype: str = "fp16",
    ignore_capacity: bool = False,
    quantize: str | None = None,
    group_size: int | None = None,
    separate_launches: bool = False,
    autotuner: Autotuner | None = None,
) -> Program:
    """Compile a graph of `fuse_model` for a machine; everything else as for `compile_model`.

    `compile_graph(fuse_model(model, dims, dtype), machine, dtype)` gives the program of `compile_model`.
    """
    from compiler.pipeline import BACK

    options = _options(machine, dtype, {}, ignore_capacity, quantize, group_size, separate_launches, autotuner)
    return _program(BACK, graph, options)


def _options(
    machine: str | Path | Machine,
    dtype: str,
    dims: Mapping[str, int | tuple[int, int]],
    ignore_capacity: bool,
    quantize: str | None,
    group_size: int | None,
    separate_launches: bool,
    autotuner: Autotuner | None,
) -> Options:
    from compiler.mapping import by_estimate
    from compiler.pipeline import Options
    from compiler.quantize import quantization
    from isa.machine import load_machine

    chosen = load_machine(machine) if isinstance(machine, (str, Path)) else machine
    check_dtype(dtype, chosen)
    weights = quantization(quantize, group_size)
    choose = autotuner.choose if autotuner else by_estimate
    return Options(chosen, dtype, dict(dims), ignore_capacity, weights, separate_launches, choose)


def _program(passes: Sequence[Pass], graph: Graph, options: Options) -> Program:
    from compiler.pipeline import run_passes
    from isa.program import Program

    level = run_passes(passes, graph, options).level
    assert isinstance(level, Program)
    return level


def _imported(model: str | Path | onnx.ModelProto, dtype: str) -> Graph:
    from compiler.checkpoint_import import load_checkpoint
    from compiler.onnx_import import import_model, load_onnx

    if isinstance(model, (str, Path)):
        return load_checkpoint(Path(model), dtype) if Path(model).is_dir() else load_onnx(Path(model))
    return import_model(model, None, model.graph.name or "model")


def check_dtype(dtype: str, machine: Machine) -> None:
    """Raise UnsupportedError unless the compiler knows the element type and the machine multiplies it.

    Every machine multiplies fp32, if not in the matrix engine, then in the SIMD engine.
    """
    from isa.errors import UnsupportedError

    if dtype not in DTYPES:
        raise UnsupportedError(
            f"dtype '{dtype}' is not supported", where="--dtype", help=f"choose one of {', '.join(DTYPES)}"
        )
    if not machine.peak_macs_per_cycle(dtype):
        raise UnsupportedError(
            f"{machine.name} does not multiply {dtype}", where="--dtype", help="choose another one, fp32 for example"
        )
