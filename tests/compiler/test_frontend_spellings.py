"""Ways to write the same block, as exporters and people do; the oracle is the ONNX reference evaluator."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from compiler.frontend import fuse_model
from compiler.graph import Graph, RopeAttributes
from compiler.onnx_import import import_model
from compiler.reference import run_reference

BATCH, SEQUENCE, HEAD_DIM, VOCABULARY = 2, 5, 8, 24


@dataclass
class Builder:
    """Builds an ONNX graph; every operator gives the name of its first output."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))

    def op(self, op_type: str, *inputs: str, count: int = 1, **attributes: object) -> str:
        """Add a node with one output, or with `count` outputs named NAME_0, NAME_1, ..."""
        name = f"v{len(self.nodes)}"
        outputs = [name] if count == 1 else [f"{name}_{index}" for index in range(count)]
        self.nodes.append(helper.make_node(op_type, list(inputs), outputs, name=f"node_{name}", **attributes))
        return name

    def constant(self, value: object, dtype: type = np.int64) -> str:
        """Add a constant."""
        name = f"c{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, *shape: int) -> str:
        """Add a random weight."""
        return self.constant(self.random.normal(0, 0.5, shape), np.float32)

    def model(self, output: str, shape: list[object], opset: int = 20) -> onnx.ModelProto:
        """Return the model of ids[batch, seq] -> output."""
        self.nodes.append(helper.make_node("Identity", [output], ["y"], name="last"))
        ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "seq"])
        result = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
        graph = helper.make_graph(self.nodes, "block", [ids], [result], self.tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])

    # --- norms --------------------------------------------------------------------------------------------------

    def norm(self, x: str, spelling: str, hidden: int) -> str:
        """RMS norm over the last axis."""
        square = self.op("Mul", x, x) if spelling == "square" else self.op("Pow", x, self.constant(2.0, np.float32))
        mean = self.op("ReduceMean", square, self.constant([-1]), keepdims=1)
        total = self.op("Add", self.constant(1e-5, np.float32), mean)
        if spelling == "power":
            scaled = self.op("Mul", x, self.op("Pow", total, self.constant(-0.5, np.float32)))
        elif spelling == "quotient":
            scaled = self.op("Div", x, self.op("Sqrt", total))
        elif spelling == "inverse":
            scaled = self.op("Mul", self.op("Div", self.constant(1.0, np.float32), self.op("Sqrt", total)), x)
        else:
            scaled = self.op("Mul", x, self.op("Reciprocal", self.op("Sqrt", total)))
        return self.op("Mul", scaled, self.weight(hidden))

    # --- attention ----------------------------------------------------------------------------------------------

    def heads(self, x: str, count: int) -> str:
        """[B, S, count * D] -> [B, count, S, D]."""
        view = self.op("Reshape", x, self.constant([0, 0, count, HEAD_DIM]))
        return self.op("Transpose", view, perm=[0, 2, 1, 3])

    def tables(self, width: int) -> tuple[str, str]:
        """Cos and sin [1, 1, S, width] of positions 0, 1, 2, ..."""
        length = self.op("Squeeze", self.op("Shape", "ids", start=1, end=2))
        positions = self.op("Range", self.constant(0), length, self.constant(1))
        column = self.op("Cast", self.op("Unsqueeze", positions, self.constant([1])), to=TensorProto.FLOAT)
        angles = self.op("Mul", column, self.constant(0.5 ** np.arange(HEAD_DIM // 2), np.float32))
        if width == HEAD_DIM:
            angles = self.op("Concat", angles, angles, axis=-1)
        return tuple(self.op("Unsqueeze", self.op(f, angles), self.constant([0, 1])) for f in ("Cos", "Sin"))  # type: ignore[return-value]

    def rotate(self, x: str, spelling: str, tables: tuple[str, str]) -> str:
        """Rotary embedding of [B, H, S, D]."""
        cos, sin = tables
        half = HEAD_DIM // 2
        if spelling in ("negated_half", "scaled_half"):
            first, second = self.part(x, 0, half), self.part(x, half, 2**63 - 1)
            minus = self.op("Neg", second)
            if spelling == "scaled_half":
                minus = self.op("Mul", second, self.constant(-1.0, np.float32))
            turned = self.op("Mul", sin, self.op("Concat", minus, first, axis=3))
            return self.op("Add", turned, self.op("Mul", x, cos))
        if spelling == "split":
            name = self.op("Split", x, count=2, axis=-1, num_outputs=2)
            return self.op("Concat", *self.rotated(f"{name}_0", f"{name}_1", cos, sin), axis=-1)
        view = self.op("Reshape", x, self.constant([0, 0, 0, half, 2]))
        if spelling == "pairs_by_gather":
            even, odd = (self.op("Gather", view, self.constant(index), axis=-1) for index in (0, 1))
        else:
            name = self.op("Split", view, count=2, axis=-1, num_outputs=2)
            even, odd = (self.op("Squeeze", f"{name}_{index}", self.constant([-1])) for index in (0, 1))
        stacked = [self.op("Unsqueeze", part, self.constant([4])) for part in self.rotated(even, odd, cos, sin)]
        return self.op("Reshape", self.op("Concat", *stacked, axis=-1), self.constant([0, 0, 0, HEAD_DIM]))

    def part(self, x: str, start: int, end: int) -> str:
        """Slice of the last axis."""
        return self.op("Slice", x, *(self.constant([number]) for number in (start, end, 3, 1)))

    def rotated(self, first: str, second: str, cos: str, sin: str) -> tuple[str, str]:
        """The two parts of a rotation."""
        left = self.op("Sub", self.op("Mul", first, cos), self.op("Mul", second, sin))
        right = self.op("Add", self.op("Mul", first, sin), self.op("Mul", second, cos))
        return left, right

    def repeated(self, x: str, heads: int, kv_heads: int, axis: int) -> str:
        """Each of the kv heads of [B, KV, S, D] several times (axis 2), or all of them several times (axis 1)."""
        if heads == kv_heads:
            return x
        shape = self.op("Shape", x)
        parts = [self.op("Slice", shape, self.constant([a]), self.constant([b])) for a, b in ((0, axis), (axis, 4))]
        target = self.op("Concat", parts[0], self.constant([heads // kv_heads]), parts[1], axis=0)
        wide = self.op("Expand", self.op("Unsqueeze", x, self.constant([axis])), target)
        return self.op("Reshape", wide, self.constant([0, heads, -1, HEAD_DIM]))

    def masked(self, scores: str, spelling: str) -> str:
        """Hide later keys."""
        shape = self.op("Concat", *[self.op("Shape", "ids", start=1, end=2)] * 2, axis=0)
        if spelling == "triangle":
            infinity = self.constant(np.float32(-np.inf), np.float32)
            return self.op(
                "Add", scores, self.op("Trilu", self.op("Expand", infinity, shape), self.constant(1), upper=1)
            )
        ones = self.op("ConstantOfShape", shape, value=helper.make_tensor("one", TensorProto.BOOL, [1], [True]))
        kept = self.op(
            "Cast", self.op("Trilu", self.op("Cast", ones, to=TensorProto.INT32), upper=0), to=TensorProto.BOOL
        )
        lowest = self.constant(np.finfo(np.float32).min, np.float32)
        if spelling == "where_hidden":
            return self.op("Where", self.op("Not", kept), lowest, scores)
        return self.op("Where", kept, scores, lowest)


@dataclass(frozen=True)
class Spelling:
    """One way to write a block of one layer."""

    norm: str = "reciprocal"
    rotary: str = "negated_half"
    mask: str = "triangle"
    scale: str = "on_scores"
    activation: str = "sigmoid"
    heads: tuple[int, int] = (4, 2)
    bias: bool = False
    packed: bool = False
    last_token: str = "no"
    repeat_axis: int = 2


def block(spelling: Spelling) -> onnx.ModelProto:
    """A decoder layer between an embedding and a head."""
    b = Builder()
    hidden = spelling.heads[0] * HEAD_DIM
    x = b.op("Gather", b.weight(VOCABULARY, hidden), "ids")
    x = b.op("Add", x, attention(b, b.norm(x, spelling.norm, hidden), spelling, hidden))
    x = b.op("Add", gated(b, b.norm(x, spelling.norm, hidden), spelling, hidden), x)
    x = b.norm(x, spelling.norm, hidden)
    if spelling.last_token == "gather":
        x = b.op("Unsqueeze", b.op("Gather", x, b.constant(-1), axis=1), b.constant([1]))
    elif spelling.last_token == "slice":
        x = b.op("Slice", x, b.constant([-1]), b.constant([2**63 - 1]), b.constant([1]))
    logits = b.op("MatMul", x, b.op("Transpose", b.weight(VOCABULARY, hidden), perm=[1, 0]))
    return b.model(logits, ["batch", 1 if spelling.last_token != "no" else "seq", VOCABULARY])


def project(b: Builder, x: str, hidden: int, columns: int, spelling: Spelling) -> str:
    """A linear layer."""
    y = b.op("MatMul", x, b.weight(hidden, columns))
    return b.op("Add", b.weight(columns), y) if spelling.bias else y


def attention(b: Builder, x: str, spelling: Spelling, hidden: int) -> str:
    """Self-attention with rotary embedding."""
    heads, kv_heads = spelling.heads
    sizes = [heads * HEAD_DIM, kv_heads * HEAD_DIM, kv_heads * HEAD_DIM]
    if spelling.packed:
        packed = b.op("Split", project(b, x, hidden, sum(sizes), spelling), b.constant(sizes), count=3, axis=2)
        names = [f"{packed}_{index}" for index in range(3)]
    else:
        names = [project(b, x, hidden, size, spelling) for size in sizes]
    q, k, v = (b.heads(name, count) for name, count in zip(names, (heads, kv_heads, kv_heads), strict=True))
    whole = spelling.rotary in ("negated_half", "scaled_half")
    tables = b.tables(HEAD_DIM if whole else HEAD_DIM // 2)
    q, k = b.rotate(q, spelling.rotary, tables), b.rotate(k, spelling.rotary, tables)
    k, v = (b.repeated(name, heads, kv_heads, spelling.repeat_axis) for name in (k, v))
    k = b.op("Transpose", k, perm=[0, 1, 3, 2])
    root = b.constant(HEAD_DIM**-0.25, np.float32)
    if spelling.scale == "on_both":
        q, k = b.op("Mul", q, root), b.op("Mul", root, k)
    scores = b.op("MatMul", q, k)
    if spelling.scale == "on_scores":
        scores = b.op("Div", scores, b.constant(HEAD_DIM**0.5, np.float32))
    weights = b.op("Softmax", b.masked(scores, spelling.mask), axis=-1)
    mixed = b.op("Transpose", b.op("MatMul", weights, v), perm=[0, 2, 1, 3])
    flat = b.op("Reshape", mixed, b.constant([0, 0, hidden]))
    return project(b, flat, hidden, hidden, spelling)


def gated(b: Builder, x: str, spelling: Spelling, hidden: int) -> str:
    """The gated feed-forward part."""
    gate, up = (b.op("MatMul", x, b.weight(hidden, 20)) for _ in range(2))
    if spelling.activation == "up_first":
        product = b.op("Mul", up, b.op("Mul", b.op("Sigmoid", gate), gate))
    else:
        product = b.op("Mul", b.op("Mul", gate, b.op("Sigmoid", gate)), up)
    return b.op("MatMul", product, b.weight(20, hidden))


BASE = Spelling()
SPELLINGS = [
    BASE,
    *(Spelling(norm=norm) for norm in ("square", "power", "quotient", "inverse")),
    *(Spelling(rotary=rotary) for rotary in ("scaled_half", "split", "pairs_by_gather", "pairs_by_split")),
    *(Spelling(mask=mask) for mask in ("where_kept", "where_hidden")),
    Spelling(scale="on_both"),
    Spelling(activation="up_first"),
    *(Spelling(heads=heads) for heads in ((4, 4), (4, 1), (1, 1), (6, 3))),
    Spelling(bias=True),
    Spelling(packed=True),
    Spelling(packed=True, bias=True, heads=(4, 4)),
    *(Spelling(last_token=last) for last in ("gather", "slice")),
]
DIMS = {"batch": BATCH, "seq": SEQUENCE}


def check(model: onnx.ModelProto, batch: int = BATCH, sequence: int = SEQUENCE) -> Graph:
    """Fuse a model and compare its output with the ONNX reference evaluator's."""
    fused = fuse_model(import_model(model, None, "block"), {"batch": batch, "seq": sequence})
    ids = np.random.default_rng(1).integers(0, VOCABULARY, (batch, sequence))
    (expected,) = ReferenceEvaluator(model).run(None, {"ids": ids})
    np.testing.assert_allclose(run_reference(fused, {"ids": ids})["y"], expected, rtol=1e-4, atol=1e-4)
    return fused


@pytest.mark.parametrize("spelling", SPELLINGS, ids=str)
def test_spellings_of_a_block(spelling: Spelling) -> None:
    """Each spelling fuses to the same composites and computes what the ONNX specification says."""
    fused = check(block(spelling))
    counts = Counter(operation.kind for operation in fused.operations)
    slices = 3 * spelling.packed + (spelling.last_token != "no")
    linears = 8 - 2 * spelling.packed
    expected = {"embedding": 1, "rms_norm": 3, "linear": linears, "rope": 2, "attention": 1, "swiglu": 1}
    assert counts == Counter(expected | ({"slice": slices} if slices else {}))
    ropes = [operation.attributes for operation in fused.operations if operation.kind == "rope"]
    assert all(isinstance(rope, RopeAttributes) and rope.interleaved == ("pairs" in spelling.rotary) for rope in ropes)


@pytest.mark.parametrize(("batch", "sequence"), list(itertools.product((1, 2, 4), (1, 2, 4))))
@pytest.mark.parametrize("rotary", ["negated_half", "pairs_by_split"])
def test_sizes_that_look_alike(batch: int, sequence: int, rotary: str) -> None:
    """Sizes of 1, and sizes equal to the number of heads, confuse nothing."""
    check(block(Spelling(rotary=rotary)), batch, sequence)


def test_heads_repeated_in_another_order_do_not_fuse() -> None:
    """Repeating all heads one after the other (h % kv_heads) is no grouped query, although all shapes are the same."""
    fused = check(block(Spelling(repeat_axis=1)))
    counts = Counter(operation.kind for operation in fused.operations)
    assert counts["attention"] == 0 and counts["matmul"] == 2
