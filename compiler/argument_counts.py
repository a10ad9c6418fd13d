"""How many inputs and outputs each ONNX operator has, checked before its shape rule sees them."""

from __future__ import annotations

from compiler.evaluate import checked_axis
from compiler.onnx_schema import attribute_names, has_schema
from compiler.shape_call import Call
from compiler.shape_rules import ARITHMETIC, BOOLEAN, UNARY
from compiler.symbols import Contradiction

# Fewest and most inputs of each operator; all of the fewest must be there.
_INPUT_COUNTS: dict[str, tuple[int, int]] = {
    **dict.fromkeys((*BOOLEAN, *ARITHMETIC), (2, 2)),
    **dict.fromkeys(("Not", "IsNaN", "IsInf", *UNARY), (1, 1)),
    **dict.fromkeys(("Concat", "Max", "Min"), (1, 1 << 20)),
    **{f"Reduce{name}": (1, 2) for name in ("Max", "Mean", "Min", "Prod", "Sum")},
    **dict.fromkeys(("Cast", "ConstantOfShape", "Flatten", "Shape", "Size", "Transpose"), (1, 1)),
    **dict.fromkeys(
        ("CastLike", "CumSum", "Expand", "Gather", "GatherElements", "GatherND", "MatMul", "Reshape", "Tile"), (2, 2)
    ),
    **dict.fromkeys(("Split", "Squeeze", "Trilu"), (1, 2)),
    "Attention": (3, 7),
    "Clip": (1, 3),
    "Dropout": (1, 3),
    "Gemm": (2, 3),
    "GroupNormalization": (3, 3),
    "DequantizeLinear": (2, 3),
    "DynamicQuantizeLinear": (1, 1),
    "DynamicQuantizeMatMul": (3, 5),
    "GatherBlockQuantized": (3, 4),
    "GroupQueryAttention": (1, 16),
    "MatMulInteger": (2, 4),
    "MatMulIntegerToFloat": (4, 7),
    "MatMulNBits": (3, 6),
    "MultiHeadAttention": (3, 10),
    "QuantizeLinear": (2, 3),
    "RMSNormalization": (2, 2),
    "Range": (3, 3),
    "RotaryEmbedding": (3, 4),
    "SimplifiedLayerNormalization": (2, 2),
    "SkipSimplifiedLayerNormalization": (3, 4),
    "ScatterElements": (3, 3),
    "ScatterND": (3, 3),
    "TensorScatter": (2, 3),
    "Slice": (3, 5),
    "Unsqueeze": (2, 2),
    "Where": (3, 3),
}
# Most outputs of each operator that can have more than one.
_OUTPUT_COUNTS = {
    "Attention": 4, "Dropout": 2, "DynamicQuantizeLinear": 3, "GroupQueryAttention": 3,
    "MultiHeadAttention": 3, "SkipSimplifiedLayerNormalization": 4,
    "Split": 1 << 20,
}  # fmt: skip


def _check_attributes(call: Call) -> None:
    """Raise Contradiction for attributes that an operator of ai.onnx has not in its opset, but may have later."""
    if call.attributes.domain or not has_schema(call.attributes.op_type, call.opset):
        return
    known = attribute_names(call.attributes.op_type, call.opset)
    for name, _ in call.attributes.attributes:
        if name not in known:
            raise Contradiction(f"an attribute {name!r} and opset {call.opset}, where it has none of this name")


def _check_axis(call: Call) -> None:
    """Raise ValueError for an axis that the first operand has not; for one scale, quantization does not read it."""
    op_type, axis = call.attributes.op_type, call.attributes.get("axis")
    is_read = not call.attributes.domain and op_type not in ("DequantizeLinear", "QuantizeLinear")
    if not is_read or not isinstance(axis, int) or not call.has(0):
        return
    rank = len(call.fact(0).shape) + (op_type == "OneHot")
    if op_type != "Flatten" or axis != rank:  # behind the last axis, Flatten may split too
        checked_axis(axis, rank)


def check_arguments(call: Call) -> None:
    """Raise Contradiction or ValueError if an operator has the wrong number of inputs or outputs, or a wrong axis."""
    op_type = call.attributes.op_type
    _check_axis(call)
    if op_type not in _INPUT_COUNTS:
        return  # the onnx package checks it
    fewest, most = _INPUT_COUNTS[op_type]
    if not fewest <= len(call.inputs) <= most or None in call.inputs[:fewest]:
        raise Contradiction(f"{len(call.inputs)} inputs and {fewest} to {most} that it takes")
    if op_type == "GroupQueryAttention" and (len(call.inputs) < 7 or None in call.inputs[5:7]):
        raise Contradiction("fewer inputs and the 7 that it takes")
    _check_attributes(call)
    if not 1 <= call.output_count <= _OUTPUT_COUNTS.get(op_type, 1):
        raise Contradiction(f"{call.output_count} outputs and {_OUTPUT_COUNTS.get(op_type, 1)} that it gives")
