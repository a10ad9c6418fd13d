"""The tables of how close programs come to the roofline, and of how well the cost model ranks mappings."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import cost_model, quantized_weights, roofline
from isa.machine import preset


def test_the_table_has_a_row_per_machine(capsys: pytest.CaptureFixture[str]) -> None:
    """With what is asked: of others what the first one reaches, less ten points."""
    roofline.main(["--machine", "mtia-2i", "--machine", "mtia-300", "--workload", "gemm 2048"])
    _, first, second, _ = capsys.readouterr().out.splitlines()
    ratio = float(first.split("%")[0].split()[-1])
    assert "mtia-2i" in first and "92.0%" in first and "MISSED" not in first
    assert "mtia-300" in second and f"{ratio - 10:.1f}%" in second


def test_the_page_says_the_same_every_time(capsys: pytest.CaptureFixture[str]) -> None:
    """No seconds of this computer are in it."""
    pages = []
    for _ in range(2):
        roofline.main(["--machine", "mtia-2i", "--workload", "fc", "--markdown"])
        pages.append(capsys.readouterr().out)
    assert pages[0] == pages[1]
    rows = [line for line in pages[0].splitlines() if line.startswith("| fc 512 x 26592 x 2048 | mtia-2i |")]
    assert len(rows) == 1 and pages[0].splitlines()[-1].startswith("| mtia-2i | ")


@pytest.mark.parametrize("workload", roofline.WORKLOADS[:6], ids=lambda workload: workload.name)
def test_products_keep_what_they_reach(workload: roofline.Workload) -> None:
    """On the reference machine no product falls behind what is asked."""
    row = roofline.measure(workload, preset(roofline.REFERENCE))
    assert workload.asked <= row.ratio <= 1


def test_eight_bits_are_what_the_machine_has() -> None:
    """Where there is no int8, fp8 is measured."""
    (workload,) = (one for one in roofline.WORKLOADS if one.quantize == "int8")
    assert roofline.quantization(workload, preset("mtia-2i")) == "int8"
    assert roofline.quantization(workload, preset("mtia-300")) == "fp8"


def test_the_estimate_ranks_mappings_as_the_simulator_does() -> None:
    """Spearman's coefficient of two shapes; the chosen mapping loses little against the best of those simulated."""
    for shape in ((1, 4096, 4096), (512, 1024, 4096)):
        ranking = cost_model.ranking(*shape, preset("mtia-2i"), count=8)
        assert ranking.correlation > 0.7
        assert ranking.loss < 0.03


def test_rank_correlation() -> None:
    """Ranks count, not values; equal values share a rank."""
    values = np.array([1.0, 2.0, 3.0, 4.0])
    assert cost_model.rank_correlation(values, values**3) == pytest.approx(1)
    assert cost_model.rank_correlation(values, -values) == pytest.approx(-1)
    # By hand: ranks 1.5 1.5 3 4 and 1 2 3 4.
    assert cost_model.rank_correlation(np.array([5.0, 5.0, 6.0, 7.0]), values) == pytest.approx(0.9486833)


def test_the_tables_of_quantized_weights_have_what_a_machine_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer bits, less to read; a machine without int8 has fp8."""
    for name, value in (("MODEL", "llama-tiny"), ("PAST", 20), ("PREFILL", 8)):
        monkeypatch.setattr(quantized_weights, name, value)
    for machine, byte in (("mtia-2i", "int8"), ("mtia-300", "fp8")):
        chip = preset(machine)
        forms = dict(quantized_weights.forms(chip))
        assert list(forms)[:2] == ["fp16", byte]
        read = [quantized_weights.timed(chip, options, 1, 2).dram_read_bytes for options in forms.values()]
        assert read[0] > read[1] > read[2]
        assert all(line.count("|") == 6 for line in quantized_weights.table(chip))
