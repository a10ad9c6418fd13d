"""A small writer for ONNX graphs: adds nodes and weights in order and names every value after its node."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from models.weight_kind import ElementType, Weights

OPSET = 23
IR_VERSION = 11
_ALIGNMENT_BYTES = 4096  # weights start on pages, so that a loader can map them
_LARGEST_FILE_BYTES = 2**31 - 2**20  # protobuf's limit, with room for the graph
NUMPY_TYPES: dict[str, npt.DTypeLike] = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}
ONNX_TYPES: dict[str, int] = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
}


@dataclass(slots=True)
class GraphWriter:
    """Collects the parts of one graph. `weights` is a seed, or "absent" for references to `NAME.data`."""

    name: str
    element_type: ElementType
    weights: Weights
    nodes: list[NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)
    _constants: dict[tuple[int, ...] | int, str] = field(default_factory=dict)
    _next_offset_bytes: int = 0
    _weights_written: int = 0

    def add(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Add a node with one output and return the output's name, which is the node's."""
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=f"{name}/{op}", **attributes))
        return name

    def integers(self, values: Sequence[int] | int) -> str:
        """Return an int64 constant: a vector for a sequence, a scalar for an int; equal ones are shared."""
        key = values if isinstance(values, int) else tuple(values)
        if key not in self._constants:
            text = str(key) if isinstance(key, int) else "_".join(map(str, ("vector", *key)))
            name = self._constants[key] = f"constant_{text}".replace("-", "minus")
            self.initializers.append(numpy_helper.from_array(np.asarray(key, dtype=np.int64), name))
        return self._constants[key]

    def floats(self, values: npt.NDArray[np.float32], name: str) -> str:
        """Add an fp32 constant of any shape."""
        self.initializers.append(numpy_helper.from_array(values, name))
        return name

    def weight(self, name: str, shape: tuple[int, ...], *, mean: float = 0.0, deviation: float) -> str:
        """Add a weight in the model's element type: normally distributed if seeded, else only referenced."""
        if self.weights == "absent":
            self.initializers.append(self._reference(name, shape))
        else:
            values = np.random.default_rng((self.weights, self._weights_written)).standard_normal(shape, np.float32)
            values = (mean + deviation * values).astype(NUMPY_TYPES[self.element_type])
            self.initializers.append(numpy_helper.from_array(values, name))
        self._weights_written += 1
        return name

    def _reference(self, name: str, shape: tuple[int, ...]) -> TensorProto:
        length_bytes = math.prod(shape) * np.dtype(NUMPY_TYPES[self.element_type]).itemsize
        tensor = TensorProto(name=name, dims=shape, data_type=ONNX_TYPES[self.element_type])
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": f"{self.name}.data", "offset": self._next_offset_bytes, "length": length_bytes}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        self._next_offset_bytes += -(-length_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        return tensor

    def check_size(self, weight_count: int) -> None:
        """Raise ValueError if seeded weights would not fit into one ONNX file."""
        size_bytes = weight_count * np.dtype(NUMPY_TYPES[self.element_type]).itemsize
        if self.weights != "absent" and size_bytes > _LARGEST_FILE_BYTES:
            raise ValueError(
                f"{self.name}: {size_bytes:,} bytes of weights do not fit into an ONNX file; use weights='absent'"
            )

    def model(self, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]) -> ModelProto:
        """Return the finished model."""
        graph: GraphProto = helper.make_graph(self.nodes, self.name, inputs, outputs, self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="tilewright")
        model.ir_version = IR_VERSION
        return model
