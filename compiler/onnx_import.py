"""ONNX file -> `Graph` of "onnx" operations, with weights described but not read.

Dims of the graph's inputs become ints or symbols named as in the file. Shapes inside the graph are not taken from
the file (exporters get them wrong): `compiler.shape_inference` works them out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compiler.evaluate import ONNX_DTYPES
from compiler.external_data import external_reference
from compiler.graph import Body, Constant, Graph, OnnxAttributes, Operation, Value, dtype_of, reads
from isa.affine import Affine, Dim, parse
from isa.errors import ModelError

if TYPE_CHECKING:
    import onnx

LOWEST_OPSET, HIGHEST_OPSET = 14, 24


def load_onnx(path: Path) -> Graph:
    """Read an ONNX file; raises ModelError if it is missing, damaged, no ONNX file or of an unknown opset."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    path = Path(path)
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except FileNotFoundError:
        raise ModelError("no such file", where=str(path), help="give the path of an ONNX file") from None
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(path), help="give an ONNX file") from None
    except DecodeError:
        raise _not_onnx(path) from None
    if not model.graph.node or not model.graph.output:
        raise _not_onnx(path)
    if not all(isinstance(text, str) for text in _texts(model.graph)):
        raise ModelError("names that are no UTF-8 text", where=str(path), help="export or copy the model again")
    return import_model(model, path.parent, str(path))


def _texts(graph: onnx.GraphProto) -> Iterator[object]:
    """Yield the names that are used here; protobuf gives damaged ones as bytes."""
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
        for attribute in node.attribute:
            yield from _texts(attribute.g)
    for tensor in graph.initializer:
        yield tensor.name
        yield from (text for entry in tensor.external_data for text in (entry.key, entry.value))
    for info in (*graph.input, *graph.output):
        yield from (info.name, *(dim.dim_param for dim in info.type.tensor_type.shape.dim))


def _not_onnx(path: Path) -> ModelError:
    return ModelError("not an ONNX file, or truncated", where=str(path), help="export or copy the model again")


def import_model(model: onnx.ModelProto, base: Path | None, name: str) -> Graph:
    """Turn a model in memory into a graph; external data is looked for in the folder `base`."""
    model = _without_functions(model, name)
    version = _checked_opset(model, name)
    graph = model.graph
    constants = {tensor.name: _constant(tensor, base, name) for tensor in graph.initializer}
    inputs = [_input_value(info, name) for info in graph.input if info.name not in constants]
    operations, computed = _contents(graph, base, name)
    constants |= computed
    outputs = [_output_value(info) for info in graph.output]
    result = Graph(
        name=graph.name or "model",
        inputs=tuple(value.name for value in inputs),
        outputs=tuple(value.name for value in outputs),
        values={value.name: value for value in (*outputs, *inputs)},
        constants=constants,
        operations=operations,
        opset=version,
    )
    _check_names(result, name)
    return result


def body_contents(body: onnx.FunctionProto, name: str) -> tuple[tuple[Operation, ...], dict[str, Constant]]:
    """Return the operations and constants of a function's body; `name` is where errors say they are."""
    return _contents(body, None, name)


def _contents(
    graph: onnx.GraphProto | onnx.FunctionProto, base: Path | None, name: str
) -> tuple[tuple[Operation, ...], dict[str, Constant]]:
    """Return the operations of a graph, and the constants that stand among its nodes."""
    operations, constants = [], {}
    for index, node in enumerate(graph.node):
        operation = _operation(node, index, base, name)
        array = _constant_of_node(node, operation)
        if array is None:
            operations.append(operation)
        else:
            constants[node.output[0]] = Constant(Value(node.output[0], array.shape, str(array.dtype)), array)
    return tuple(operations), constants


def _body(graph: onnx.GraphProto, base: Path | None, name: str) -> Body:
    operations, constants = _contents(graph, base, name)
    constants |= {tensor.name: _constant(tensor, base, name) for tensor in graph.initializer}
    inputs, outputs = (tuple(info.name for info in infos) for infos in (graph.input, graph.output))
    return Body(inputs, outputs, constants, operations)


def _checked_opset(model: onnx.ModelProto, name: str) -> int:
    """Return the version of ai.onnx; raises an error for a model with parts that are not imported."""
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    version = opsets.get("", opsets.get("ai.onnx", 0))
    if not LOWEST_OPSET <= version <= HIGHEST_OPSET:
        what = f"opset {version} of ai.onnx is not supported" if version else "no opset of ai.onnx is imported"
        help = f"export with an opset from {LOWEST_OPSET} to {HIGHEST_OPSET}"
        raise ModelError(what, where=name, help=help)
    if model.graph.sparse_initializer:
        tensors = ", ".join(tensor.values.name for tensor in model.graph.sparse_initializer)
        raise ModelError(f"sparse tensors are not supported: {tensors}", where=name, help="store them densely")
    return int(version)


def _without_functions(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Put the bodies of model-local functions where they are called; older torch exporters write such."""
    if not model.functions:
        return model
    import onnx.checker
    import onnx.inliner

    try:
        return onnx.inliner.inline_local_functions(_with_default_attributes(model))
    except (RuntimeError, ValueError, TypeError, onnx.checker.ValidationError) as error:
        functions = ", ".join(function.name for function in model.functions)
        what = f"the model-local functions {functions} cannot be inlined: {str(error).splitlines()[0]}"
        raise ModelError(what, where=name, help="check the file with onnx.checker") from None


def _with_default_attributes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give calls of functions the attributes that they leave out, which the inliner does not."""
    defaults = {(item.domain, item.name): item.attribute_proto for item in model.functions if item.attribute_proto}
    if not defaults:
        return model
    filled = type(model)()
    filled.CopyFrom(model)
    pending = [*filled.graph.node, *(node for function in filled.functions for node in function.node)]
    while pending:
        node = pending.pop()
        given = {attribute.name for attribute in node.attribute}
        node.attribute.extend(
            default for default in defaults.get((node.domain, node.op_type), ()) if default.name not in given
        )
        pending += [inner for attribute in node.attribute for inner in attribute.g.node]
    return filled


def _check_names(graph: Graph, name: str) -> None:
    """Check that each value is produced once and before it is read."""
    known = set(graph.inputs) | set(graph.constants)
    for operation in graph.operations:
        for read in reads(operation):
            if read not in known:
                what = f"node {operation.name!r} reads {read!r}, which nothing before it produces"
                raise ModelError(what, where=name, help="check the file with onnx.checker")
        for output in operation.outputs:
            if output is not None and output in known:
                what = f"{output!r} is produced twice, the second time by node {operation.name!r}"
                raise ModelError(what, where=name, help="check the file with onnx.checker")
            known.add(output or "")
    missing = [output for output in graph.outputs if output not in known]
    if missing:
        what = f"nothing produces the outputs {', '.join(missing)}"
        raise ModelError(what, where=name, help="check the file with onnx.checker")


def _input_value(info: onnx.ValueInfoProto, name: str) -> Value:
    if not info.type.HasField("tensor_type") or not info.type.tensor_type.HasField("shape"):
        what = f"the input {info.name!r} is no tensor of known rank"
        raise ModelError(what, where=name, help="export again with tensor inputs")
    dims = info.type.tensor_type.shape.dim
    shape = tuple(_dim(dim, f"{info.name}_dim_{axis}") for axis, dim in enumerate(dims))
    return Value(info.name, shape, _dtype(info.type.tensor_type.elem_type, info.name, name))


def _output_value(info: onnx.ValueInfoProto) -> Value:
    """Describe an output; its shape is only a hint until shape inference has replaced it, its type may be unknown."""
    shape = tuple(_dim(dim, f"{info.name}_dim_{axis}") for axis, dim in enumerate(info.type.tensor_type.shape.dim))
    return Value(info.name, shape, ONNX_DTYPES.get(info.type.tensor_type.elem_type, "unknown"))


def _dim(dim: onnx.TensorShapeProto.Dimension, fallback: str) -> Dim:
    """Return an int, or the symbol or expression of a named dim (some exporters write numbers as names)."""
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    text = dim.dim_param or fallback
    try:
        expression = parse(text)
    except ValueError:
        return Affine.symbol(text)
    names = expression.symbols if isinstance(expression, Affine) else frozenset[str]()
    return expression if all(part.isidentifier() for part in names) else Affine.symbol(text)


def _dtype(number: int, tensor: str, name: str) -> str:
    if number not in ONNX_DTYPES:
        what = f"tensor {tensor!r} has an element type (number {number}) that is not supported"
        raise ModelError(what, where=name, help="supported: " + ", ".join(ONNX_DTYPES.values()))
    return ONNX_DTYPES[number]


def _constant(tensor: onnx.TensorProto, base: Path | None, name: str) -> Constant:
    import onnx

    value = Value(tensor.name, tuple(tensor.dims), _dtype(tensor.data_type, tensor.name, name))
    if 0 in tensor.dims:
        return Constant(value, np.zeros(tuple(tensor.dims), dtype_of(value.dtype)))
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return Constant(value, external_reference(tensor, value, base, name))
    return Constant(value, _array(tensor, name))


def _array(tensor: onnx.TensorProto, name: str) -> np.ndarray:
    from onnx import numpy_helper

    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        what = f"the data of tensor {tensor.name!r} does not fit its shape {list(tensor.dims)}"
        raise ModelError(what, where=name, help="export or copy the model again") from error


def _operation(node: onnx.NodeProto, index: int, base: Path | None, name: str) -> Operation:
    attributes = tuple((attribute.name, _attribute(attribute, base, name)) for attribute in node.attribute)
    domain = "" if node.domain == "ai.onnx" else node.domain
    return Operation(
        kind="onnx",
        name=node.name or f"{node.op_type}_{index}",
        inputs=_names(node.input),
        outputs=_names(node.output),
        attributes=OnnxAttributes(domain, node.op_type, attributes),
    )


def _names(names: list[str]) -> tuple[str | None, ...]:
    """Absent optional arguments are empty names; those at the end are dropped."""
    result = [name or None for name in names]
    while result and result[-1] is None:
        result.pop()
    return tuple(result)


def _attribute(attribute: onnx.AttributeProto, base: Path | None, name: str) -> object:
    import onnx

    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, onnx.GraphProto):
        return _body(value, base, name)
    if isinstance(value, onnx.TensorProto):
        return _array(value, name)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    expected = _ATTRIBUTE_TYPES.get(attribute.name)
    if expected is not None and attribute.type != expected:
        what = f"the attribute {attribute.name!r} has the wrong type"
        raise ModelError(what, where=name, help="check the file with onnx.checker")
    return tuple(value) if attribute.type in _LIST_TYPES else value


# AttributeProto.AttributeType numbers.
_FLOAT, _INT, _LIST_TYPES = 1, 2, (6, 7, 8)
# Attributes that mean the same in all operators that have them.
_ATTRIBUTE_TYPES = {
    **dict.fromkeys(("epsilon", "scale", "softcap", "alpha"), _FLOAT),
    **dict.fromkeys(("axes", "perm"), 7),
    **dict.fromkeys(
        (
            "axis", "to", "keepdims", "allowzero", "start", "end", "upper", "exclusive", "reverse", "batch_dims",
            "fmod", "noop_with_empty_axes", "num_outputs", "num_heads", "kv_num_heads", "q_num_heads", "interleaved",
            "is_causal", "do_rotary", "rotary_interleaved", "local_window_size", "smooth_softmax", "qk_output",
            "rotary_embedding_dim", "qk_matmul_output_mode",
        ),
        _INT,
    ),
}  # fmt: skip


def _constant_of_node(node: onnx.NodeProto, operation: Operation) -> np.ndarray | None:
    """Return the array of a Constant node, None for all other nodes."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    attributes = operation.attributes
    assert isinstance(attributes, OnnxAttributes)
    key, value = attributes.attributes[0] if attributes.attributes else ("", None)
    dtypes = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
    if key == "value":
        return np.asarray(value)
    return np.asarray(value, dtypes[key]) if key in dtypes else None
