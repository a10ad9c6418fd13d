"""A small writer for ONNX graphs: adds nodes and weights in order and names every value after its node."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from models.stored_tensor import StoredTensor
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
    """Collects the parts of one graph.

    `weights` is a seed, or "absent" for references to `NAME.data`, or what is stored in files by name: then matrices
    are [outputs, inputs], as checkpoints have them, and `missing` and `misshapen` collect what does not fit.
    """

    name: str
    element_type: ElementType
    weights: Weights | Mapping[str, StoredTensor]
    missing: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
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
        """Add a weight and return its value in the model's element type.

        It is normally distributed if seeded; else only referenced, and cast if it is stored in another element type.
        """
        if isinstance(self.weights, Mapping):
            return self._stored(self.weights, name, shape)
        if self.weights == "absent":
            size_bytes = math.prod(shape) * np.dtype(NUMPY_TYPES[self.element_type]).itemsize
            self._refer(name, shape, self.element_type, f"{self.name}.data", self._next_offset_bytes, size_bytes)
            self._next_offset_bytes += -(-size_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        else:
            values = np.random.default_rng((self.weights, self._weights_written)).standard_normal(shape, np.float32)
            values = (mean + deviation * values).astype(NUMPY_TYPES[self.element_type])
            self.initializers.append(numpy_helper.from_array(values, name))
        self._weights_written += 1
        return name

    def matrix(self, name: str, inputs: int, outputs: int) -> str:
        """Add the weight of a linear layer and return its value [inputs, outputs]; the deviation keeps magnitudes."""
        if not isinstance(self.weights, Mapping):
            return self.weight(name, (inputs, outputs), deviation=inputs**-0.5)
        return self.add("Transpose", [self.weight(name, (outputs, inputs), deviation=0.0)], f"{name}.T", perm=[1, 0])

    def _stored(self, weights: Mapping[str, StoredTensor], name: str, shape: tuple[int, ...]) -> str:
        tensor = weights.get(name)
        if tensor is None:
            self.missing.append(name)
            return name
        if tensor.shape != shape:
            self.misshapen.append(f"{name} is {list(tensor.shape)} instead of {list(shape)}")
        if name not in self.used:
            self.used.add(name)
            self._refer(name, shape, tensor.element_type, tensor.location, tensor.offset_bytes, tensor.length_bytes)
        if tensor.element_type == self.element_type:
            return name
        return self.add("Cast", [name], f"{name}.cast", to=ONNX_TYPES[self.element_type])

    def _refer(
        self, name: str, shape: tuple[int, ...], element_type: ElementType, location: str, offset: int, length: int
    ) -> None:
        tensor = TensorProto(name=name, dims=shape, data_type=ONNX_TYPES[element_type])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, "offset": offset, "length": length}.items():
            tensor.external_data.add(key=key, value=str(value))
        self.initializers.append(tensor)

    def check_size(self, weight_count: int) -> None:
        """Raise ValueError if seeded weights would not fit into one ONNX file."""
        size_bytes = weight_count * np.dtype(NUMPY_TYPES[self.element_type]).itemsize
        if isinstance(self.weights, int) and size_bytes > _LARGEST_FILE_BYTES:
            raise ValueError(
                f"{self.name}: {size_bytes:,} bytes of weights do not fit into an ONNX file; use weights='absent'"
            )

    def model(self, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]) -> ModelProto:
        """Return the finished model."""
        graph: GraphProto = helper.make_graph(self.nodes, self.name, inputs, outputs, self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="tilewright")
        model.ir_version = IR_VERSION
        return model
