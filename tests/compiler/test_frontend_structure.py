"""What fused graphs look like, and that the way there depends on structure only, never on names or luck."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from compiler.frontend import FRONT_END, fuse_model
from compiler.graph import AttentionAttributes, Graph, RopeAttributes
from compiler.onnx_import import import_model
from compiler.reference import run_reference
from compiler.shape_inference import bind_dims
from isa.affine import Affine
from isa.errors import UnsupportedError
from tests.compiler import exported_models
from tests.compiler.exported_models import CASES, dims_for, files_of, first_step, fused_for, graph_of, model_of

FILES = [(case, file) for case in CASES for file in files_of(case)]
# Packed projections into GroupQueryAttention.
GROUP_QUERY_CASES = ("genai_fp16_gqa", "genai_int4_b16_asym", "genai_int4_b32", "genai_int8")
# (heads, heads of keys and values, elements of a head) of the models, as exported.
USUAL_HEADS = (4, 2, 16)
OTHER_HEADS = {
    "genai_int4_b16_asym": (6, 2, 16), "hf_dynamo_past_static": (6, 2, 16), "hf_dynamo_ropescale_eager": (8, 8, 8),
}  # fmt: skip
# What a layer becomes, whatever the exporter: rope is of q and of k.
LAYER = Counter({"rms_norm": 2, "linear": 7, "rope": 2, "attention": 1, "swiglu": 1})
# Packed projections: one linear and three slices where the others have three linears.
PACKED_LAYER = LAYER - Counter({"linear": 2}) + Counter({"slice": 3})
AROUND_LAYERS = Counter({"embedding": 1, "rms_norm": 1, "linear": 1})
TWO_LAYERS = AROUND_LAYERS + LAYER + LAYER


def kinds(graph: Graph) -> dict[str, int]:
    return dict(Counter(operation.kind for operation in graph.operations))


def fused_first(case: str, file: str) -> Graph:
    return fused_for(case, file, first_step(case, file).inputs)


@pytest.mark.parametrize(("case", "file"), FILES)
def test_composite_counts(case: str, file: str) -> None:
    """Every file becomes the same few composite operations; residual additions are inside of linear."""
    layer = PACKED_LAYER if case in GROUP_QUERY_CASES else LAYER
    expected = AROUND_LAYERS + layer + layer
    if "int8dyn" in case:
        expected["quantize"] = 9  # before q, k, v; o; gate, up; down of each layer, and before the head
    if "static_cache" in case:
        expected["embedding"] += 1  # rows of the mask by position
    assert kinds(fused_first(case, file)) == expected


@pytest.mark.parametrize(("case", "file"), [(case, file) for case, file in FILES if "static_cache" not in case])
def test_attention_attributes(case: str, file: str) -> None:
    """Heads, scale, mask and cache length are read off the graph."""
    graph = fused_first(case, file)
    cached = any("past" in name for name in graph.inputs)
    first_inputs = first_step(case, file).inputs
    bound_past = next((array.shape[2] for name, array in first_inputs.items() if "past" in name), 0)
    flags = "attention_mask" if "attention_mask" in graph.inputs and case not in GROUP_QUERY_CASES else None
    for operation in graph.operations:
        if operation.kind == "attention":
            attributes = operation.attributes
            assert isinstance(attributes, AttentionAttributes)
            heads = OTHER_HEADS.get(case, USUAL_HEADS)
            assert (attributes.head_count, attributes.kv_head_count, attributes.head_dim) == heads
            assert attributes.scale == pytest.approx(heads[2] ** -0.5) and attributes.causal
            assert operation.inputs[5] == flags
            assert isinstance(attributes.past, Affine) if graph.symbols else attributes.past == bound_past
            assert (operation.inputs[3] is not None) == cached


def test_static_cache_attributes() -> None:
    """A static cache keeps its own arrangement, all its positions are keys, and the mask comes by position."""
    graph = fused_first("ref_llama_static_cache", "model.onnx")
    attentions = [operation for operation in graph.operations if operation.kind == "attention"]
    for index, operation in enumerate(attentions):
        attributes = operation.attributes
        assert isinstance(attributes, AttentionAttributes)
        assert (attributes.head_count, attributes.kv_head_count, attributes.head_dim) == (6, 3, 16)
        assert attributes.past == 48 - 7 and not attributes.causal and attributes.cache_axes == (0, 2, 1, 3)
        assert operation.inputs[3:6] == (f"cache_k.{index}", f"cache_v.{index}", None)
        assert operation.inputs[6:] == (attentions[0].inputs[6], "pos")
        assert operation.outputs[1:] == (f"new_cache_k.{index}", f"new_cache_v.{index}")


@pytest.mark.parametrize(("case", "file"), FILES)
def test_rotary_attributes(case: str, file: str) -> None:
    """Pairing and positions are read off the graph; all layers share one table of fp32 with a row per position."""
    graph = fused_first(case, file)
    ropes = [operation for operation in graph.operations if operation.kind == "rope"]
    assert len({operation.inputs[2:] for operation in ropes}) == 1
    (positions,) = [name for name in graph.inputs if name in ("position_ids", "pos")] or [None]
    for operation in ropes:
        attributes = operation.attributes
        assert isinstance(attributes, RopeAttributes)
        assert attributes.interleaved == case.startswith("ref_llama")
        assert operation.inputs[1] == positions
        table = graph.constants[operation.inputs[2] or ""].value
        assert table.dtype == "float32" and table.shape[1] == OTHER_HEADS.get(case, USUAL_HEADS)[2] // 2
        assert (attributes.start is None) == (positions is not None)


def test_rows_of_the_rotary_table_cover_the_longest_sequence() -> None:
    """With positions at run time there is a row for each position up to the longest cache plus the new tokens."""
    graph = fuse_model(exported_models.imported("hf_legacy_past", "model.onnx"), {"batch": 1, "seq": 3, "past": (0, 9)})
    rope = next(operation for operation in graph.operations if operation.kind == "rope")
    cos = graph.constants[rope.inputs[2] or ""].load()
    inverse_frequencies = numpy_helper.to_array(
        next(t for t in model_of("hf_dynamo_past", "decode.onnx").graph.initializer if t.name.endswith("inv_freq"))
    )
    expected = np.cos(np.arange(12, dtype=np.float32)[:, None] * inverse_frequencies)
    np.testing.assert_allclose(cos, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("case", "file"), FILES)
def test_names_do_not_matter(case: str, file: str) -> None:
    """A copy with all nodes and inner values renamed fuses to the same graph and gives the same outputs."""
    model = model_of(case, file)
    rename_everything(model)
    step = first_step(case, file)
    original = fused_for(case, file, step.inputs)
    graph = graph_of(case, model)
    renamed = fuse_model(graph, dims_for(graph, step.inputs, case))
    assert [operation.kind for operation in renamed.operations] == [operation.kind for operation in original.operations]
    ours, theirs = run_reference(original, step.inputs), run_reference(renamed, step.inputs)
    for name, expected in ours.items():
        np.testing.assert_array_equal(theirs[name], expected)


def rename_everything(model: onnx.ModelProto) -> None:
    """Give nodes, constants and inner values meaningless names, in an order unlike the original one."""
    graph = model.graph
    fixed = {value.name for value in (*graph.input, *graph.output)} | {""}
    names = {name for node in graph.node for name in (*node.input, *node.output)} - fixed
    fresh = {name: f"z{index}" for index, name in enumerate(sorted(names, key=lambda name: name[::-1]))}
    for tensor in graph.initializer:
        tensor.name = fresh.get(tensor.name, tensor.name)
    for index, node in enumerate(graph.node):
        node.name = f"n{len(graph.node) - index}"
        for names_of_node in (node.input, node.output):
            renamed = [fresh.get(name, name) for name in names_of_node]
            del names_of_node[:]
            names_of_node.extend(renamed)
    del graph.value_info[:]


@pytest.mark.parametrize(("case", "file"), FILES)
def test_fusion_is_deterministic(case: str, file: str) -> None:
    """Two runs print the same graph."""
    step = first_step(case, file)
    dims = dims_for(exported_models.imported(case, file), step.inputs, case)
    printed = {str(fuse_model(exported_models.imported(case, file), dims)) for _ in range(2)}
    assert len(printed) == 1


@pytest.mark.parametrize("case", ["hf_dynamo_past", "hf_legacy_past", "hf_dynamo_op23_past"])
def test_total_follows_from_past_and_seq(case: str) -> None:
    """The length of the attention mask need not be given; the relation is recorded with where it comes from."""
    graph = fused_first(case, files_of(case)[0])
    (equality,) = graph.equalities
    assert str(equality.left) == "total"
    assert equality.right == Affine.symbol("past") + graph.values["input_ids"].shape[1]
    assert "attention_mask" in equality.origin


def test_past_follows_from_total() -> None:
    """A relation is used in the direction that is needed."""
    graph = exported_models.imported("hf_dynamo_past", "decode.onnx")
    fused = fuse_model(graph, {"batch": 1, "seq": 1, "total": 17})
    assert fused.values["past_key_values.0.key"].shape == (1, 2, 16, 16)
    assert not fused.symbols


def test_an_empty_cache_can_be_bound() -> None:
    """A cache of length 0 gives the prefill of a graph that has only one form."""
    graph = exported_models.imported("hf_legacy_past", "model.onnx")
    step = first_step("hf_legacy_past", "model.onnx")
    fused = fuse_model(graph, {"batch": 1, "seq": 7, "past": 0})
    found = run_reference(fused, step.inputs)["logits"]
    np.testing.assert_allclose(found, step.outputs["logits"], rtol=0, atol=1e-3)


@pytest.mark.parametrize("file", ["prefill.onnx", "decode.onnx"])
def test_weights_may_be_absent_and_transposed(file: str) -> None:
    """Weights whose file does not exist, behind a Transpose each, fuse without their data; nothing else is lost."""
    model = model_of("hf_dynamo_past", file)
    transpose_and_drop_weights(model)
    step = first_step("hf_dynamo_past", file)
    graph = graph_of("hf_dynamo_past", model)
    fused = fuse_model(graph, dims_for(graph, step.inputs))
    assert kinds(fused) == TWO_LAYERS
    linears = [operation for operation in fused.operations if operation.kind == "linear"]
    assert all(operation.attributes.weight_rows_are_outputs for operation in linears)  # type: ignore[union-attr]
    assert all(fused.constants[operation.inputs[1] or ""].source is None for operation in linears)


def transpose_and_drop_weights(model: onnx.ModelProto) -> None:
    """Turn each MatMul weight into a Transpose of an external tensor in a file that does not exist."""
    weights = {node.input[1] for node in model.graph.node if node.op_type == "MatMul"}
    transposes = []
    for tensor in model.graph.initializer:
        if tensor.name in weights and len(tensor.dims) == 2:
            rows, columns = tensor.dims
            transposes.append(onnx.helper.make_node("Transpose", [tensor.name + "/t"], [tensor.name], perm=[1, 0]))
            tensor.name += "/t"
            tensor.dims[:] = [columns, rows]
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="no_such_file.data")
            tensor.external_data.add(key="length", value=str(4 * rows * columns))
    nodes = [*transposes, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def change_node(model: onnx.ModelProto, old: str, new: str) -> None:
    """Change the type of the first node of a type."""
    node = next(node for node in model.graph.node if node.op_type == old)
    node.op_type = new


@pytest.mark.parametrize(
    ("case", "file"),
    [
        ("hf_dynamo_past", "decode.onnx"),
        ("hf_dynamo_op23_past", "decode.onnx"),
        ("hf_legacy_past", "model.onnx"),
    ],
)
@pytest.mark.parametrize("comparison", ["Less", "GreaterOrEqual", "Equal"])
def test_another_mask_is_refused(case: str, file: str, comparison: str) -> None:
    """A mask that only looks causal is an error, not a causal mask."""
    model = model_of(case, file)
    change_node(model, "LessOrEqual", comparison)
    graph = graph_of(case, model)
    with pytest.raises(UnsupportedError, match="attention mask is not understood: it is neither causal"):
        fuse_model(graph, dims_for(graph, first_step(case, file).inputs))


@pytest.mark.parametrize("comparison", ["Equal", "GreaterOrEqual"])
def test_another_mask_of_fixed_sizes_is_added_as_it_is(comparison: str) -> None:
    """Without an open cache length any mask becomes a constant, and the outputs are those of the changed model."""
    model = model_of("hf_dynamo_nocache", "model.onnx")
    change_node(model, "LessOrEqual", comparison)
    step = first_step("hf_dynamo_nocache", "model.onnx")
    graph = graph_of("hf_dynamo_nocache", model)
    fused = fuse_model(graph, dims_for(graph, step.inputs))
    assert kinds(fused) == TWO_LAYERS
    expected = run_in_onnxruntime(model, step.inputs)[0]
    np.testing.assert_allclose(run_reference(fused, step.inputs)["logits"], expected, rtol=0, atol=1e-4)


def test_another_static_mask_is_added_as_it_is() -> None:
    """A mask that was folded into a constant is checked element by element; one key more hidden is a bias."""
    model = model_of("hf_dynamo_nocache_static", "model.onnx")
    mask = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [1, 1, 16, 16])
    array = numpy_helper.to_array(mask).copy()
    array[0, 0, 9, 3] = ~array[0, 0, 9, 3]
    mask.CopyFrom(numpy_helper.from_array(array, mask.name))
    fused = fuse_model(graph_of("hf_dynamo_nocache_static", model), {})
    inputs = dict(first_step("hf_dynamo_nocache_static", "model.onnx").inputs)
    expected = run_in_onnxruntime(model, inputs)[0]
    np.testing.assert_allclose(run_reference(fused, inputs)["logits"], expected, rtol=0, atol=1e-4)
    attention = next(operation for operation in fused.operations if operation.kind == "attention")
    assert attention.inputs[5] == "attention_mask"
    assert fused.constants[attention.inputs[6] or ""].value.shape == (1, 1, 16, 16)


def run_in_onnxruntime(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Return the outputs of a model in memory."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, dict(inputs))


def test_a_sliding_window_is_refused_at_the_length_where_it_begins() -> None:
    """The bounds of the cache length are tried, so a window shows itself if it can ever matter."""
    model = model_of("hf_dynamo_past", "decode.onnx")
    nodes = model.graph.node
    causal = next(index for index, node in enumerate(nodes) if node.op_type == "LessOrEqual")
    keys, queries = nodes[causal].input
    window = onnx.helper.make_tensor("window", onnx.TensorProto.INT64, [], [40])
    model.graph.initializer.append(window)
    compared = nodes[causal].output[0]
    nodes[causal].output[0] = "causal_only"
    nodes.insert(causal + 1, onnx.helper.make_node("Add", [keys, "window"], ["end_of_window"]))
    nodes.insert(causal + 2, onnx.helper.make_node("Less", [queries, "end_of_window"], ["in_window"]))
    nodes.insert(causal + 3, onnx.helper.make_node("And", ["causal_only", "in_window"], [compared]))
    graph = graph_of("hf_dynamo_past", model)
    with pytest.raises(UnsupportedError, match="attention mask is not understood"):
        fuse_model(graph, {"batch": 1, "seq": 1, "past": (0, 64)})
    within = fuse_model(graph, {"batch": 1, "seq": 1, "past": (0, 39)})
    assert kinds(within) == TWO_LAYERS


@pytest.mark.parametrize("file", ["prefill.onnx", "decode.onnx"])
def test_the_causal_flag_of_attention_does_not_see_the_cache(file: str) -> None:
    """`is_causal` aligns queries with the first keys: the same as our causal without a cache, refused with one."""
    model = model_of("hf_dynamo_op23_past", file)
    for node in model.graph.node:
        if node.op_type == "Attention":
            next(attribute for attribute in node.attribute if attribute.name == "is_causal").i = 1
    graph, step = graph_of("hf_dynamo_op23_past", model), first_step("hf_dynamo_op23_past", file)
    if file == "prefill.onnx":
        assert kinds(fuse_model(graph, dims_for(graph, step.inputs))) == TWO_LAYERS
    else:
        with pytest.raises(UnsupportedError, match="is_causal with keys from a cache"):
            fuse_model(graph, dims_for(graph, step.inputs))


@pytest.mark.parametrize("case", ["hf_dynamo_nocache", "ref_llama_dynamo"])
def test_another_rotation_is_refused(case: str) -> None:
    """A rotation with a wrong sign is an error, not a rope."""
    model = model_of(case, "model.onnx")
    old, new = ("Neg", "Identity") if case == "hf_dynamo_nocache" else ("Sub", "Add")
    change_node(model, old, new)
    graph = graph_of(case, model)
    with pytest.raises(UnsupportedError, match="two parts of each pair are rotated differently"):
        fuse_model(graph, {"batch": 1, "seq": 4})


@pytest.mark.parametrize(
    ("case", "old", "new"), [("hf_dynamo_nocache", "Softmax", "Bernoulli"), ("hf_dynamo_nocache", "Sqrt", "Bernoulli")]
)
def test_a_broken_pattern_is_listed(case: str, old: str, new: str) -> None:
    """An operation that no longer belongs to a known pattern is left over and named."""
    model = model_of(case, "model.onnx")
    node = next(node for node in model.graph.node if node.op_type == old)
    node.op_type = new
    del node.attribute[:]
    with pytest.raises(UnsupportedError, match=f"{node.name} \\({new}\\)"):
        fuse_model(graph_of(case, model), {"batch": 1, "seq": 4})


def test_steps_are_separate_and_described() -> None:
    """A pipeline can list the steps: each has a name of its own and a sentence, and they run one by one."""
    names = [name for name, _, _ in FRONT_END]
    assert len(set(names)) == len(names)
    assert all(sentence.endswith(".") for _, _, sentence in FRONT_END)
    graph = bind_dims(exported_models.imported("hf_dynamo_nocache", "model.onnx"), {"batch": 1, "seq": 4})
    for _, step, _ in FRONT_END:
        graph = step(graph)
        assert str(graph)
    assert kinds(graph) == TWO_LAYERS


def test_many_layers_fuse() -> None:
    """A graph of the size of Llama-3-8B (32 layers, about 2,700 nodes) fuses."""
    model = model_of("hf_dynamo_past", "decode.onnx")
    repeat_layers(model, 16)
    assert len(model.graph.node) > 2500
    graph = import_model(model, None, "deep")
    fused = fuse_model(graph, {"batch": 1, "seq": 1, "past": (0, 4096)})
    assert kinds(fused)["attention"] == 32


def repeat_layers(model: onnx.ModelProto, times: int) -> None:
    """Stack copies of the two layers of a graph, from the first norm's input to the last residual addition."""
    graph = model.graph
    nodes = list(graph.node)
    first = next(index for index, node in enumerate(nodes) if node.op_type == "Pow")
    last = max(index for index, node in enumerate(nodes) if node.op_type == "Pow")
    body, entry, leave = nodes[first:last], nodes[first].input[0], nodes[last].input[0]
    made = {name for node in body for name in node.output}
    caches = [value for value in graph.input if value.name.startswith("past_key_values")]
    stacked, previous = [], entry
    for copy in range(times):
        suffix = f"/{copy}" if copy else ""
        renamed = {name: name + suffix for name in made} | {cache.name: cache.name + suffix for cache in caches}
        renamed[entry] = previous
        for node in body:
            clone = onnx.NodeProto()
            clone.CopyFrom(node)
            clone.name += suffix
            clone.input[:] = [renamed.get(name, name) for name in node.input]
            clone.output[:] = [renamed.get(name, name) for name in node.output]
            stacked.append(clone)
        previous = leave + suffix
        for cache in caches if copy else []:
            graph.input.add().CopyFrom(cache)
            graph.input[-1].name += suffix
    for node in nodes[last:]:
        node.input[:] = [previous if name == leave else name for name in node.input]
    del graph.node[:]
    graph.node.extend([*nodes[:first], *stacked, *nodes[last:]])
