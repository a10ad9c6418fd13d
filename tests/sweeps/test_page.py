"""The page of a sweep as text: its data, that it loads nothing, that strange words stay words.

How it works in a browser is what `benchmarks/page_in_chromium.py` checks.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs

from isa.errors import ToolError
from sweeps import page_data
from sweeps.page import page_text, write_page
from sweeps.page_data import findings_of
from sweeps.pareto import front_of
from sweeps.points import SweepTable
from sweeps.wording import scale_of
from tests.synthetic_sweep import HOSTILE, PARAMETERS, odd_tables, page_arguments, synthetic_table


class Reader(HTMLParser):
    """Collects the elements of a page with their attributes, its scripts, and its other text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        """Forget what the text belongs to."""
        self._inside = ""

    def handle_data(self, data: str) -> None:
        """Note text as that of a script or of the page."""
        if self._inside == "script":
            self.scripts[-1] += data
        else:
            self.words.append(data)

    @property
    def data(self) -> dict:
        """What the charts are drawn from."""
        return json.loads(self.scripts[0])


def _read(table: SweepTable) -> Reader:
    return Reader(page_text(table, **page_arguments(table)))


@pytest.fixture(scope="module")
def table() -> SweepTable:
    """A sweep of 300 points."""
    return synthetic_table(300)


@pytest.fixture(scope="module")
def page(table: SweepTable) -> Reader:
    """Its page."""
    return _read(table)


def test_the_data_has_every_point(table: SweepTable, page: Reader) -> None:
    """Parameters and figures of each, in the order of their axes; bounds of discarded points are no figures."""
    data = page.data
    assert [point[0] for point in data["points"]] == [*range(300), -1]
    names = [axis["path"] for axis in data["parameters"]]
    assert names == list(PARAMETERS)
    for point, row in zip(data["points"], table.rows, strict=False):
        assert point[1] == row.status
        assert point[2] == [row.values.get(name) for name in PARAMETERS]
        if row.status == "ok":
            assert point[4][:3] == pytest.approx([row.figures[goal.name] for goal in table.objectives], rel=1e-6)
        else:
            assert set(point[4]) == {None}
        assert data["texts"][point[5]] == (row.limit if row.status == "ok" else row.reason)
    front = front_of(table)
    assert front.knee is not None
    assert data["front"] == [row.number for row in front.rows] and data["knee"] == front.knee.number
    assert [(line["x"], line["y"]) for line in data["lines"]] == [(0, 1), (0, 2), (1, 2)]
    assert all(line["xs"] == sorted(line["xs"]) and line["ys"] == sorted(line["ys"])[::-1] for line in data["lines"])


def test_figures_without_a_front_have_the_scale_of_the_base_machine(table: SweepTable) -> None:
    """As where no point is feasible."""
    base = table.baseline
    assert base is not None
    axes = _read(odd_tables()["only the base machine"]).data["figures"]
    for goal, axis in zip(table.objectives, axes, strict=False):
        assert axis["divisor"] == scale_of([base.figures[goal.name]], goal.unit)[0]
    assert any(axis["divisor"] != 1 for axis in axes[: len(table.objectives)])


@pytest.mark.parametrize("name", ["", *odd_tables()])
def test_nothing_is_loaded_and_only_our_scripts_run(name: str, page: Reader) -> None:
    """No element asks for anything; the policy forbids it too, and names the scripts by their digests."""
    read = _read(odd_tables()[name]) if name else page
    for tag, attributes in read.elements:
        assert tag not in ("img", "link", "iframe", "object", "embed", "base", "form", "a", "video", "audio"), tag
        assert not attributes.keys() & {"src", "href", "srcset", "action", "onclick", "onerror", "onload"}, attributes
    kinds = [attributes.get("type") for tag, attributes in read.elements if tag == "script"]
    assert kinds == ["application/json", None, None]
    assert read.scripts[1] == get_plotlyjs()
    policy = next(a["content"] for t, a in read.elements if t == "meta" and a.get("http-equiv")) or ""
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in read.scripts[1:]]
    assert rules["default-src"] == "'none'" and rules["script-src"].split() == [f"'sha256-{d}'" for d in digests]
    assert not re.search(r"https?:|//", rules["img-src"] + rules["style-src"])
    assert "http" not in re.sub(r"http-equiv", "", " ".join(read.scripts[2:])), "our own scripts name no address"


def test_hostile_words_are_text() -> None:
    """They are shown as they are, without control signs, and are in the data as they are."""
    read = _read(odd_tables()["hostile words"])
    shown = HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    assert any(shown in words for words in read.words)
    assert read.data["name"] == shown and read.data["parameters"][0]["path"] == f"grid.pes{shown}"
    text = page_text(odd_tables()["hostile words"])
    assert "<script>window" not in text and "<img" not in text.replace(get_plotlyjs(), "")
    assert all(sign == "\n" or sign.isprintable() for sign in text.replace(get_plotlyjs(), ""))


def test_equal_tables_give_equal_pages(table: SweepTable, tmp_path: Path) -> None:
    """Byte for byte."""
    for name in ("a.html", "b.html"):
        write_page(synthetic_table(300), tmp_path / name, **page_arguments(table))
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_large_sweep_is_thinned_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fixed sample that has the knee, the ends of the front, and the neighbours."""
    sizes = {"MOST_OF_FRONT": 20, "MOST_OTHERS": 30, "MOST_WITHOUT_FIGURES": 10, "MOST_LIMITS": 5, "MOST_FRONT_ROWS": 4}
    for name, most in sizes.items():
        monkeypatch.setattr(page_data, name, most)
    table = synthetic_table(1500)
    read = _read(table)
    numbers = {point[0] for point in read.data["points"]}
    assert len(numbers) == 20 + 30 + 10 + 1
    rows = [attributes.get("data-point") for tag, attributes in read.elements if tag == "tr"]
    assert {int(number) for number in rows if number} | set(read.data["limits"]["order"]) <= numbers
    findings = findings_of(table)
    assert findings.front.knee is not None
    for objective in table.objectives:
        best = min(findings.front.rows, key=lambda row: row.figures[objective.name])
        assert best.number in numbers
    assert {findings.front.knee.number, -1, *(step.row.number for step in findings.beside_knee)} <= numbers
    words = " ".join(read.words)
    assert "of 1,500 points" in words and "a fixed sample" in words
    assert len(read.data["front"]) == 20 < len(findings.front.rows)


def test_the_page_tells_what_there_is_to_know(table: SweepTable, page: Reader) -> None:
    """The knee, the reasons with their counts, the comparison with its caveats, assumptions and versions."""
    words = " ".join(" ".join(page.words).split())
    front = front_of(table)
    assert front.knee is not None
    lost = sum(row.reason.startswith("constraint") for row in table.rows)
    for expected in (
        f"knee: point {front.knee.number}", f"{lost} infeasible constraint", "H200 SXM",
        "dominate the base machine in latency and area",
        "H100 SXM", "knee, point", "one chip on its own", "0.08 $/kWh (assumed)", "a made-up version",
    ):  # fmt: skip
        assert expected in words, expected
    marks = [attributes.get("data-point") for tag, attributes in page.elements if tag == "tr"]
    assert str(front.knee.number) in marks and "-1" in marks


def test_a_missing_plotly_is_named(table: SweepTable, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install."""
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ToolError, match="plotly, which is not installed") as caught:
        page_text(table)
    assert "tilewright[report]" in caught.value.help
