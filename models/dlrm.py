"""ONNX graphs of DLRM: embedding bags, bottom and top layers, and pairwise products or cross layers in between.

Inputs: `dense` [batch, dense] and, per table N, `indices.N` [batch, hot] int64. Output: `probability` [batch, 1].
"""

from __future__ import annotations

import itertools

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from models.dlrm_config import DlrmConfig
from models.graph_writer import ONNX_TYPES, GraphWriter
from models.weight_kind import ElementType, Weights


def build_dlrm(config: DlrmConfig, weights: Weights = "absent", dtype: ElementType = "float16") -> ModelProto:
    """Return the model with seeded weights (`weights` is the seed) or with references to a file that does not exist.

    Equal arguments give equal bytes. ValueError if the dtype is unknown or seeded weights pass protobuf's 2 GB.
    """
    if dtype not in ONNX_TYPES:
        raise ValueError(f"unknown element type '{dtype}'; known: {', '.join(ONNX_TYPES)}")
    writer = GraphWriter(config.name, dtype, weights)
    writer.check_size(config.parameters)
    dense = _layers(writer, "dense", "bottom", (config.dense, *config.bottom), "Relu")
    features = [dense, *(_bag(writer, config, table) for table in range(len(config.table_rows)))]
    joined = _crossed(writer, config, features) if config.cross_layers else _products(writer, config, features)
    _layers(writer, joined, "top", (config.interaction_width, *config.top), "Sigmoid", output="probability")
    inputs = [helper.make_tensor_value_info("dense", ONNX_TYPES[dtype], ["batch", config.dense])]
    inputs += [
        helper.make_tensor_value_info(f"indices.{table}", TensorProto.INT64, ["batch", hot])
        for table, hot in enumerate(config.hot)
    ]
    outputs = [helper.make_tensor_value_info("probability", ONNX_TYPES[dtype], ["batch", config.top[-1]])]
    return writer.model(inputs, outputs)


def _layers(
    writer: GraphWriter, value: str, name: str, widths: tuple[int, ...], last: str, output: str | None = None
) -> str:
    """Fully connected layers with ReLU between them and `last` behind them."""
    for layer, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        prefix = f"{name}.{layer}"
        weight = writer.weight(f"{prefix}.weight", (outputs, inputs), deviation=(2 / inputs) ** 0.5)
        bias = writer.weight(f"{prefix}.bias", (outputs,), deviation=0.1)
        value = writer.add("Gemm", [value, weight, bias], prefix, transB=1)
        is_last = layer == len(widths) - 2
        value = writer.add(last if is_last else "Relu", [value], (output if is_last else None) or f"{prefix}.activated")
    return value


def _bag(writer: GraphWriter, config: DlrmConfig, table: int) -> str:
    """The sum of the rows that a sample's indices choose; entries keep the deviation of what is made of it near 1."""
    rows, hot = config.table_rows[table], config.hot[table]
    deviation = hot**-0.5 if config.cross_layers else hot**-0.5 * config.dim**-0.25
    weight = writer.weight(f"embedding.{table}.weight", (rows, config.dim), deviation=deviation)
    chosen = writer.add("Gather", [weight, f"indices.{table}"], f"embedding.{table}.rows", axis=0)
    return writer.add("ReduceSum", [chosen, writer.integers([1])], f"embedding.{table}.sum", keepdims=0)


def _products(writer: GraphWriter, config: DlrmConfig, features: list[str]) -> str:
    """The dense feature, and the products of all pairs of features (the lower triangle, row by row)."""
    rows = [writer.add("Unsqueeze", [name, writer.integers([1])], f"{name}.row") for name in features]
    stacked = writer.add("Concat", rows, "features", axis=1)
    turned = writer.add("Transpose", [stacked], "features.transposed", perm=[0, 2, 1])
    products = writer.add("MatMul", [stacked, turned], "products")
    count = config.features
    flat = writer.add("Reshape", [products, writer.integers([-1, count * count])], "products.flat")
    places = np.array([row * count + column for row in range(count) for column in range(row)], np.int64)
    writer.initializers.append(numpy_helper.from_array(places, "lower_triangle"))
    pairs = writer.add("Gather", [flat, "lower_triangle"], "products.pairs", axis=1)
    return writer.add("Concat", [features[0], pairs], "interaction", axis=1)


def _crossed(writer: GraphWriter, config: DlrmConfig, features: list[str]) -> str:
    """Low-rank cross layers: x' = x0 * (W (V x) + b) + x."""
    width, rank = config.features * config.dim, config.cross_rank
    first = value = writer.add("Concat", features, "features", axis=1)
    for layer in range(config.cross_layers):
        name = f"cross.{layer}"
        narrow = writer.weight(f"{name}.v.weight", (width, rank), deviation=width**-0.5)
        wide = writer.weight(f"{name}.w.weight", (rank, width), deviation=rank**-0.5)
        bias = writer.weight(f"{name}.bias", (width,), deviation=0.1)
        low = writer.add("MatMul", [value, narrow], f"{name}.v")
        back = writer.add("Add", [writer.add("MatMul", [low, wide], f"{name}.w"), bias], f"{name}.biased")
        value = writer.add("Add", [writer.add("Mul", [first, back], f"{name}.crossed"), value], f"{name}.sum")
    return value
