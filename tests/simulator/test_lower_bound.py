"""Lower bounds: what they count, and that no run beats them."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

import models
from benchmarks.validate import product
from compiler import compile_model
from isa.machine import PRESETS, preset
from simulator import Simulator


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("dims", [{"sequence": 1, "past": 40}, {"sequence": 33, "past": 0}])
def test_no_launch_and_no_model_beats_its_bound(name, dims):
    """On every preset, for prefill and decode."""
    model = models.build("llama-tiny", "absent")
    report = Simulator(compile_model(model, name, dims={"batch": 2, **dims})).profile()
    assert 0 < report.share_of_bound <= 1
    for launch in report.launches:
        assert 0 < launch.share_of_bound <= 1, launch.name
    separate = Simulator(compile_model(model, name, dims={"batch": 2, **dims}, separate_launches=True)).profile()
    for operation in separate.operations:
        assert 0 < operation.share_of_bound <= 1, operation.operation


def test_the_figures_of_a_product():
    """Weights count once at what DRAM delivers, activations at the SRAM's bandwidth, products at the peak."""
    machine = preset("mtia-2i")
    report = Simulator(compile_model(product(64, 512, 1000, weights=True), machine)).profile()
    bounds = report.lower_bounds_seconds
    assert bounds["dram"] == pytest.approx(512 * 1000 * 2 / machine.dram_deliverable_bytes_per_second)
    assert bounds["sram"] == pytest.approx((64 * 1000 + 64 * 512) * 2 / machine.sram_bytes_per_second)
    assert bounds["dpe"] == pytest.approx(64 * 512 * 1000 / machine.peak_macs_per_second("fp16"))
    blocks = 32 * 32 * machine.matrix.max_repeat_blocks * machine.matrix.block_k_bytes // 2
    issue = 64 * 512 * 1000 / blocks * machine.pe.command_issue_cycles / machine.cycles_per_second / machine.pe_count
    assert bounds["issue"] == pytest.approx(issue)
    assert report.lower_bound_resource == "dram"
    assert report.lower_bound_seconds == bounds["dram"]


def _two_products() -> onnx.ModelProto:
    """Two products with one weight."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, [4, 64]) for name in ("a", "y")]
    weight = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT16, dims=[64, 64])
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="absent.data")
    nodes = [helper.make_node("MatMul", ["a", "w"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])]
    graph = helper.make_graph(nodes, "twice", values[:1], values[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_a_constant_counts_once():
    """A weight that two products read is read once at best."""
    report = Simulator(compile_model(_two_products(), "mtia-2i")).profile()
    machine = preset("mtia-2i")
    assert report.lower_bounds_seconds["dram"] == pytest.approx(64 * 64 * 2 / machine.dram_deliverable_bytes_per_second)


def test_what_attention_reads_grows_with_the_past():
    """A position more is a key and a value of every kv head more; tables count the rows that are chosen."""
    program = compile_model(
        models.build("llama-tiny", "absent"), "mtia-2i", dims={"batch": 2, "sequence": 1, "past": (0, 64)}
    )
    simulator, config = Simulator(program), models.config_of("llama-tiny")
    at = [simulator.profile(past=past).lower_bounds_seconds["dram"] for past in (10, 11)]
    position = 2 * config.kv_cache_elements_per_token * 2  # two sequences, two bytes
    deliverable = preset("mtia-2i").dram_deliverable_bytes_per_second
    assert at[1] - at[0] == pytest.approx(position / deliverable, rel=1e-6)
    assert at[0] * deliverable < 1.2 * sum(item.bytes for item in program.storages if item.role == "constant")
