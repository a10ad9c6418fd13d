"""Names in the table of operations: layers share one, short ones tell apart what long ones do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.operation_names import shared_name, short_names

WIDTH = 26


@pytest.mark.parametrize(
    ("operation", "shared"),
    [
        ("model.layers.17.self_attn.q_proj/MatMul", "model.layers.*.self_attn.q_proj/MatMul"),
        ("/model/layers.3/attn/Add_2", "/model/layers.*/attn/Add_2"),
        ("node_linear_12", "node_linear_* (code)"),
        ("node_linear&node_linear_1&node_linear_2", "node_linear&node_linear_* (code)"),
        ("conv1", "conv1"),
        ("logits/MatMul", "logits/MatMul"),
    ],
)
def test_layers_share_a_name(operation: str, shared: str) -> None:
    """Numbers of layers go; numbers of nodes only where there is no layer, and then the code tells kinds apart."""
    assert shared_name(operation, "code") == shared


def test_what_tells_least_is_cut() -> None:
    """Types of nodes where names differ without, then the beginning; the end of a kernel's name."""
    attention = "model.layers.*.self_attn.attention/Attention"
    whole = ["model.layers.*.self_attn.o_proj/MatMul", attention, f"{attention}.append_value", "logits/MatMul",
             "a.b.q/MatMul&a.b.k/MatMul&a.b.v/MatMul", "node_linear_* (linear_resident_1x16x512)",
             "/model/layers.*/post_attention_layernorm/Mul_1"]  # fmt: skip
    assert short_names(whole, WIDTH) == [
        "..*.self_attn.o_proj", "..attention/Attention", "..Attention.append_value", "logits", "a.b.q&k&v",
        "node_linear_* (..1x16x512)", "..post_attention_layernorm",
    ]  # fmt: skip


@given(st.lists(st.text("aB./&_*0 (", min_size=1, max_size=60), max_size=4))
def test_any_name_fits(names: list[str]) -> None:
    """In order, none empty, none too long; those that are short enough and all different stay different."""
    short = short_names(names, WIDTH)
    assert len(short) == len(names) and all(0 < len(name) <= WIDTH for name in short)
