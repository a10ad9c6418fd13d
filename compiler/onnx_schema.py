"""Shapes and meanings of ONNX operators that have no rule here, by the onnx package; imported only when needed.

Both need sizes without symbols. `reference_outputs` runs the reference evaluator on one operator, for folding.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.evaluate import ONNX_DTYPES
from compiler.graph import OnnxAttributes
from compiler.symbols import Undecided
from isa.affine import Affine, Dim

if TYPE_CHECKING:
    import onnx

Typed = tuple[tuple[Dim, ...], str]
_NUMBERS = {name: number for number, name in ONNX_DTYPES.items()}


@functools.cache
def has_schema(op_type: str, opset: int) -> bool:
    """Tell whether the domain `ai.onnx` has an operator."""
    return _schema(op_type, opset) is not None


@functools.cache
def attribute_names(op_type: str, opset: int) -> frozenset[str]:
    """Return the names of the attributes that an operator of `ai.onnx` can have."""
    return frozenset(_schema(op_type, opset).attributes)


@functools.cache
def _schema(op_type: str, opset: int) -> Any:
    import onnx

    try:
        return onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return None


def inferred_types(
    attributes: OnnxAttributes,
    opset: int,
    shapes: Sequence[tuple[tuple[Dim, ...], str] | None],
    contents: Sequence[np.ndarray | None],
    output_count: int,
) -> list[Typed]:
    """Return (shape, dtype) of the outputs; raises Undecided if a size is a symbol or depends on data."""
    import onnx

    names = [f"input_{index}" if item is not None else "" for index, item in enumerate(shapes)]
    types: dict[str, onnx.TypeProto] = {}
    data: dict[str, onnx.TensorProto] = {}
    for name, item, content in zip(names, shapes, contents, strict=True):
        if item is None:
            continue
        if any(isinstance(dim, Affine) for dim in item[0]):
            raise Undecided(f"{attributes.op_type} of a symbolic size")
        types[name] = onnx.helper.make_tensor_type_proto(_NUMBERS[item[1]], [int(dim) for dim in item[0]])  # type: ignore[arg-type]
        if content is not None and content.dtype != object:
            data[name] = onnx.numpy_helper.from_array(np.ascontiguousarray(content), name)
    node = _node(attributes, opset, names, output_count)
    try:
        found = onnx.shape_inference.infer_node_outputs(_schema(attributes.op_type, opset), node, types, data)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        raise ValueError(str(error).strip().splitlines()[-1]) from None
    return [_typed(found.get(name), attributes) for name in node.output]


def _typed(found: onnx.TypeProto | None, attributes: OnnxAttributes) -> Typed:
    tensor = found.tensor_type if found is not None else None
    if tensor is None or not tensor.HasField("shape"):
        raise Undecided(f"the shape of {attributes.op_type} depends on data")
    if tensor.elem_type not in ONNX_DTYPES:
        raise Undecided(f"{attributes.op_type} gives elements of type {tensor.elem_type}, which is not supported")
    if not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        raise Undecided(f"the shape of {attributes.op_type} depends on data")
    return tuple(int(dim.dim_value) for dim in tensor.shape.dim), ONNX_DTYPES[tensor.elem_type]


def reference_outputs(
    attributes: OnnxAttributes, opset: int, arrays: Sequence[np.ndarray | None], output_count: int
) -> list[np.ndarray]:
    """Return the outputs of one operator on constants; raises Undecided if the reference has none either."""
    import onnx
    import onnx.reference

    names = [f"input_{index}" if array is not None else "" for index, array in enumerate(arrays)]
    given = {name: array for name, array in zip(names, arrays, strict=True) if array is not None}
    node = _node(attributes, opset, names, output_count)
    inputs = [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in given]
    outputs = [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in node.output]
    graph = onnx.helper.make_graph([node], "one", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        results = onnx.reference.ReferenceEvaluator(model).run(None, given)
    except Exception as error:  # the evaluator raises whatever its NumPy code raises
        raise Undecided(f"{attributes.op_type} of constants: {error}") from None
    if not all(isinstance(result, np.ndarray) for result in results):
        raise Undecided(f"{attributes.op_type} gives something else than tensors")
    return list(results)


def function_body(
    attributes: OnnxAttributes, opset: int, types: Sequence[tuple[str, tuple[Dim, ...]] | None], is_output: list[bool]
) -> onnx.FunctionProto:
    """Return the definition of an operator by other ones, for inputs of these (dtype, shape) without symbols."""
    import onnx

    schema, protos = _schema(attributes.op_type, opset), []
    for item in types:
        proto = onnx.TypeProto()
        if item is not None:
            proto = onnx.helper.make_tensor_type_proto(_NUMBERS[item[0]], [int(dim) for dim in item[1]])  # type: ignore[arg-type]
        protos.append(proto.SerializeToString())
    names = [f"input_{index}" if item is not None else "" for index, item in enumerate(types)]
    node = _node(attributes, opset, names, len(is_output))
    for index, is_there in enumerate(is_output):
        node.output[index] = node.output[index] if is_there else ""
    body = onnx.FunctionProto()
    if schema.has_context_dependent_function:
        body.ParseFromString(schema.get_context_dependent_function(node.SerializeToString(), protos))
    else:
        body.ParseFromString(schema.get_function_with_opset_version(_newest(schema, opset)))
    _resolve_attributes(body, node, schema)
    return body


def _newest(schema: Any, opset: int) -> int:
    """Return the newest version of a definition that an opset may use."""
    return max(int(version) for version in schema.function_opset_versions if version <= opset)


def _resolve_attributes(body: onnx.FunctionProto, node: onnx.NodeProto, schema: Any) -> None:
    """Put the values of the operator's attributes, or the default ones, where a body refers to them."""
    given = {attribute.name: attribute for attribute in node.attribute}
    for inner in body.node:
        for attribute in inner.attribute:
            if attribute.ref_attr_name:
                name, source = attribute.name, attribute.ref_attr_name
                attribute.CopyFrom(given.get(source, schema.attributes[source].default_value))
                attribute.name = name


def _node(attributes: OnnxAttributes, opset: int, names: list[str], output_count: int) -> onnx.NodeProto:
    import onnx

    schema = _schema(attributes.op_type, opset)
    node = onnx.NodeProto(op_type=attributes.op_type, input=names)
    node.output.extend(f"output_{index}" for index in range(output_count))
    for name, value in attributes.attributes:
        kind = schema.attributes[name].type.value if name in schema.attributes else None
        plain = onnx.numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        node.attribute.append(onnx.helper.make_attribute(name, plain, attr_type=kind))
    return node
