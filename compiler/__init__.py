"""The compiler: an ONNX model -> a program for a machine.

program = compile_model("llama.onnx", machine="mtia-2i", dims={"batch": 1, "sequence": 1, "past": (0, 4096)})
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

    from compiler.autotune import Autotuner
    from compiler.graph import Graph
    from isa.machine import Machine
    from isa.program import Program

__all__ = ["Autotuner", "compile_model"]

DTYPES = ("fp16", "bf16", "fp32")
"""Element types of weights and activations that a model can be compiled for."""


def __getattr__(name: str) -> object:
    if name == "Autotuner":
        from compiler.autotune import Autotuner

        return Autotuner
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
    `separate_launches` keeps a launch for each operation, so that reports tell all of them apart; it is slower.
    `autotuner` measures mappings that would else be chosen by estimate: `Autotuner(8, simulated_cycles)`.
    Raises a ToolError that says where, what and what to do for a model that cannot be compiled.
    """
    from compiler.mapping import by_estimate
    from compiler.pipeline import BACK, FRONT, Options, run_passes
    from compiler.quantize import quantization
    from isa.machine import load_machine
    from isa.program import Program

    chosen = load_machine(machine) if isinstance(machine, (str, Path)) else machine
    weights = quantization(quantize, group_size)
    choose = autotuner.choose if autotuner else by_estimate
    options = Options(chosen, dtype, dict(dims or {}), ignore_capacity, weights, separate_launches, choose)
    check_dtype(options.dtype, chosen)
    outcome = run_passes((*FRONT, *BACK), _imported(model, dtype), options)
    assert isinstance(outcome.level, Program)
    return outcome.level


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
