"""The benchmark of sweeps: its machines are valid, and different in what shapes code."""

from __future__ import annotations

from benchmarks import sweep_speed


def test_the_walk_visits_different_machines() -> None:
    """All fields vary, and hardly two machines are the same to the compiler."""
    machines = [sweep_speed.variant(number) for number in range(60)]
    assert machines == [sweep_speed.variant(number) for number in range(60)]
    assert len({machine.code_digest for machine in machines}) > 55
    for path, values in sweep_speed.FIELDS.items():
        assert len({machine.value(path) for machine in machines}) > min(len(values), len(machines)) / 2
