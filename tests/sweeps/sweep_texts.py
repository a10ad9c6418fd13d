"""A small sweep for tests: tiny models on a few PEs, so that a point takes some tens of milliseconds."""

from __future__ import annotations

TINY = """\
name = "tiny"
machine = "mtia-2i"

[changes]
grid.rows = 2
grid.columns = 2

[[parameters]]
path = "sram.bytes"
log_range = { start = 33554432, stop = 268435456, factor = 2 }

[[parameters]]
name = "width"
values = [2, 4, 8]
set = { "grid.columns" = "width" }

[[parameters]]
path = "dram.bytes_per_second"
values = [2e9, 204.8e9]

[[parameters]]
path = "frequency"
values = [1100, 1350]

[[constraints]]
expression = "area_mm2 <= 0.88 * base.area_mm2"

[[constraints]]
expression = "decode.peak_watts < 20"

[[workloads]]
name = "decode"
model = "llama-tiny"
layers = 1
phase = "decode"
batch = 2
past = 30

[[workloads]]
name = "ranking"
model = "dlrm-tiny"
batch = 16
weight = 2.0

[[objectives]]
figure = "decode.latency_seconds"

[[objectives]]
figure = "decode.energy_per_token_joules"

[[objectives]]
figure = "area_mm2"

[sampler]
kind = "random"
seed = 1
batch = 4

[budget]
points = 12
"""
