"""What users are told about files and dims that cannot be compiled."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import models
from compiler import compile_model
from compiler.frontend import fuse_model
from compiler.graph import FileReference
from compiler.onnx_import import import_model, load_onnx
from isa.errors import ModelError, UnsupportedError
from tests.compiler import exported_models
from tests.compiler.exported_models import FOLDER, graph_of, model_of

DECODE = ("hf_dynamo_past", "decode.onnx")


def test_missing_file(tmp_path: Path) -> None:
    """A path that does not exist is named."""
    with pytest.raises(ModelError, match=r"gone\.onnx: no such file"):
        load_onnx(tmp_path / "gone.onnx")


@pytest.mark.parametrize("size", [0, 1, 100, 20_000, 800_000])
def test_truncated_file(tmp_path: Path, size: int) -> None:
    """A file that ends too early is one clear message, wherever it ends."""
    path = tmp_path / "cut.onnx"
    path.write_bytes((FOLDER / "hf_dynamo_past" / "decode.onnx").read_bytes()[:size])
    with pytest.raises(ModelError, match=r"cut\.onnx: (not an ONNX file, or truncated|.*)\n  help: "):
        load_onnx(path)


@pytest.mark.parametrize("content", [b"GGUF\x03\x00\x00\x00", b"hello, world\n" * 50, b"\x89PNG\r\n\x1a\n"])
def test_another_kind_of_file(tmp_path: Path, content: bytes) -> None:
    """What is no ONNX file is called so."""
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="not an ONNX file"):
        load_onnx(path)


@pytest.mark.parametrize("version", [13, 25])
def test_opset_out_of_range(version: int) -> None:
    """The versions that are supported are named."""
    model = model_of(*DECODE)
    model.opset_import[0].version = version
    with pytest.raises(ModelError, match=f"opset {version} of ai.onnx is not supported\n  help: .* from 14 to 24"):
        graph_of(DECODE[0], model)


def test_unused_opset_imports_are_accepted() -> None:
    """Tools leave imports behind that nothing uses."""
    model = model_of(*DECODE)
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    assert graph_of(DECODE[0], model).operations


def test_sparse_tensors_are_refused() -> None:
    """Sparse initializers are named."""
    model = model_of(*DECODE)
    values = helper.make_tensor("thin", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("thin_indices", TensorProto.INT64, [1], [2])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [10]))
    with pytest.raises(ModelError, match="sparse tensors are not supported: thin"):
        graph_of(DECODE[0], model)


def test_a_value_that_nobody_makes() -> None:
    """A dangling name is named with the node that reads it."""
    model = model_of(*DECODE)
    model.graph.node[5].input[0] = "nobody"
    with pytest.raises(ModelError, match="reads 'nobody', which nothing before it produces"):
        graph_of(DECODE[0], model)


def test_all_unsupported_operators_are_listed_at_once() -> None:
    """Each unknown operator is listed with name, type and input shapes, and the supported kinds are given."""
    model = model_of("hf_dynamo_nocache", "model.onnx")
    sigmoids = [node for node in model.graph.node if node.op_type == "Sigmoid"]
    for node in sigmoids:
        node.op_type = "Bernoulli"
    with pytest.raises(UnsupportedError) as caught:
        fuse_model(graph_of("hf_dynamo_nocache", model), {"batch": 1, "seq": 4})
    text = str(caught.value)
    assert "2 operations are not supported" in text
    assert f"{sigmoids[0].name} (Bernoulli) of [1, 4, 172]" in text
    assert "for Bernoulli, nearest supported: random numbers as an input of the model; export in evaluation" in text
    assert sigmoids[1].name in text
    assert "operations must fuse to: embedding, rms_norm, linear, rope, attention, swiglu, add, slice" in text


@pytest.mark.parametrize(
    ("dims", "name", "reader"),
    [
        ({"seq": 1, "past": (0, 8)}, "batch", "input_ids"),
        ({"batch": 1, "past": (0, 8)}, "seq", "input_ids"),
        ({"batch": 1, "seq": 1}, "past", "past_key_values.0.key"),
    ],
)
@pytest.mark.parametrize("case", ["hf_dynamo_past", "hf_dynamo_op23_past", "hf_legacy_past"])
def test_unbound_dim(case: str, dims: dict[str, int | tuple[int, int]], name: str, reader: str) -> None:
    """A dim that follows from nothing is named with what to give."""
    file = "model.onnx" if case == "hf_legacy_past" else "decode.onnx"
    with pytest.raises(ModelError, match=f"--dim {name}=VALUE") as caught:
        fuse_model(exported_models.imported(case, file), dims)
    assert name in caught.value.what


def test_unknown_dim_suggests_the_nearest() -> None:
    """A misspelt dim name gets a suggestion and the list."""
    with pytest.raises(ModelError, match="did you mean 'batch'") as caught:
        fuse_model(exported_models.imported(*DECODE), {"bach": 1})
    assert "the model has batch, past, seq, total" in str(caught.value)


def test_contradicting_dims() -> None:
    """A derived dim that was given wrongly is an error that shows both sizes."""
    with pytest.raises(ModelError, match=re.escape("attention_mask: sizes contradict each other: 9 and 17")):
        fuse_model(exported_models.imported(*DECODE), {"batch": 1, "seq": 1, "past": 16, "total": 9})


def test_only_cache_lengths_may_be_ranges() -> None:
    """A range of batch sizes is refused by name."""
    with pytest.raises(ModelError, match="--dim batch=VALUE"):
        fuse_model(exported_models.imported(*DECODE), {"batch": (1, 4), "seq": 1, "past": 16})


def external_model(location: str, offset: str = "0", length: str = "32", **extra: str) -> onnx.ModelProto:
    """A model with one weight of 32 bytes in a side file."""
    tensor = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[4, 2])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": offset, "length": length, **extra}.items():
        tensor.external_data.add(key=key, value=value)
    node = helper.make_node("MatMul", ["x", "weight"], ["y"], name="product")
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1, s]) for n, s in (("x", 4), ("y", 2))]
    graph = helper.make_graph([node], "one", ends[:1], ends[1:], [tensor])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def test_external_weights_are_referenced(tmp_path: Path) -> None:
    """The bytes stay where they are until they are asked for."""
    array = np.arange(8, dtype=np.float32).reshape(4, 2)
    (tmp_path / "weights.bin").write_bytes(b"12345678" + array.tobytes())
    constant = import_model(external_model("weights.bin", "8"), tmp_path, "one").constants["weight"]
    assert isinstance(constant.source, FileReference)
    np.testing.assert_array_equal(constant.load(), array)


def test_absent_external_weights_are_legal(tmp_path: Path) -> None:
    """Without the file the weights have no data; the graph can still be timed."""
    graph = import_model(external_model("weights.bin"), tmp_path, "one")
    assert graph.constants["weight"].source is None
    assert [operation.kind for operation in fuse_model(graph, {}).operations] == ["linear"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"location": "../weights.bin"}, "outside the model's folder"),
        ({"location": "/etc/passwd"}, "outside the model's folder"),
        ({"location": "link.bin"}, "outside the model's folder"),
        ({"location": "weights.bin", "offset": "4"}, "ends at byte 36, but weights.bin has 32 bytes"),
        ({"location": "weights.bin", "length": "28"}, r"has 28 bytes, but float32\[4, 2\] needs 32"),
        ({"location": "weights.bin", "offset": "-1"}, "offset '-1'"),
        ({"location": "weights.bin", "basepath": "x"}, "unknown keys basepath"),
    ],
)
def test_external_data_is_checked(tmp_path: Path, arguments: dict[str, str], message: str) -> None:
    """Paths stay inside of the folder, and sizes fit the file and the shape."""
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(32))
    (folder / "weights.bin").write_bytes(bytes(32))
    (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(ModelError, match=message):
        import_model(external_model(**arguments), folder, "one")


def test_inner_data_of_the_wrong_size() -> None:
    """Data in the file that does not fit its shape is named."""
    model = model_of(*DECODE)
    tensor = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 2)
    tensor.raw_data = tensor.raw_data[:-4]
    with pytest.raises(ModelError, match=f"data of tensor '{tensor.name}' does not fit its shape"):
        graph_of(DECODE[0], model)


def test_absent_tables_are_named() -> None:
    """Tables are computed when compiling, so the constants they come from must be there."""
    model = model_of(*DECODE)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("inv_freq"))
    count = numpy_helper.to_array(tensor).size
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="no_such_file.data")
    tensor.external_data.add(key="length", value=str(4 * count))
    with pytest.raises(ModelError, match=r"inv_freq is absent, but masks or tables are computed from it"):
        fuse_model(graph_of(DECODE[0], model), {"batch": 1, "seq": 1, "past": (0, 8)})


def test_rotary_table_that_is_too_short() -> None:
    """A cache longer than the table of the file is refused with both figures."""
    graph = exported_models.imported("genai_fp16_gqa", "model.onnx")
    dims = {"batch_size": 1, "sequence_length": 1, "past_sequence_length": (0, 256)}
    with pytest.raises(ModelError, match="has 256 rows, but sequences can have 257 tokens"):
        fuse_model(graph, dims)


@pytest.mark.parametrize(
    ("dims", "words"),
    [
        ({"batch": 1, "sequence": 0, "past": 0}, "input_ids: the input is empty: sequence is 0"),
        ({"batch": 0, "sequence": 1, "past": 0}, "input_ids: the input is empty: batch is 0"),
        ({"batch": 1, "sequence": 1, "past": (0, 1 << 40)}, "1,099,511,627,776 is too large for a dim"),
    ],
)
def test_sizes_that_cannot_be_worked_on_are_named(dims: dict[str, int | tuple[int, int]], words: str) -> None:
    """Nothing to compute, or more than fits anywhere, is told as such and not as a strange shape."""
    with pytest.raises(ModelError) as caught:
        compile_model(models.build("llama-tiny", weights="absent"), dims=dims)

    assert words in str(caught.value)
