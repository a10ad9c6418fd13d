"""The result page of a sweep: one HTML file that works offline, for an architect to look through and to show.

plotly's JavaScript is inside the file; a content security policy lets no other script run and nothing be fetched, so a
hostile name could do nothing even if it were not written as harmless text, which it is.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from isa.errors import ToolError
from isa.whole_file import write_text
from sweeps.page_data import findings_of, page_data
from sweeps.page_sections import body
from sweeps.points import SweepTable
from sweeps.published import ComparisonRow
from sweeps.wording import plain

_SCRIPTS = ("page_designs.js", "page_charts.js")


def write_page(
    table: SweepTable,
    path: str | Path,
    *,
    comparison: Sequence[ComparisonRow] = (),
    assumptions: Mapping[str, str] | None = None,
    versions: Mapping[str, str] | None = None,
) -> None:
    """Write the page of a sweep, whole or not at all; the arguments are those of `page_text`.

    ToolError if plotly is not installed, a point lacks an objective, or the file cannot be written.
    """
    write_text(path, page_text(table, comparison=comparison, assumptions=assumptions, versions=versions))


def page_text(
    table: SweepTable,
    *,
    comparison: Sequence[ComparisonRow] = (),
    assumptions: Mapping[str, str] | None = None,
    versions: Mapping[str, str] | None = None,
) -> str:
    """Return the page as HTML; equal arguments give equal text.

    `comparison` is what `comparison_of` gives; `assumptions` and `versions` are told at the end, name by name.
    ToolError if plotly is not installed or a point lacks an objective.
    """
    scripts = [_plotly(), "\n".join(_asset(name) for name in _SCRIPTS)]
    findings = findings_of(table)
    content = body(findings, comparison, assumptions or {}, versions or {})
    data = _json(page_data(findings))
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Sweep {escape(plain(table.name))}</title>",
        f"<style>{_asset('page.css')}</style></head><body>",
        content,
        f'<script type="application/json" id="sweep-data">{data}</script>',
        *(f"<script>{script}</script>" for script in scripts),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _json(value: object) -> str:
    """Return JSON that is safe inside of a script element: no sign in it can end the element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)  # ASCII only
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(scripts: Sequence[str]) -> str:
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    # plotly writes styles of its own, and pictures that are saved are blobs.
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"


def _asset(name: str) -> str:
    return importlib.resources.files("sweeps").joinpath(name).read_text("utf-8")


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ToolError("the page needs the package plotly, which is not installed", where="report",
                        help="pip install 'tilewright[report]', or write CSV") from error  # fmt: skip
    return str(get_plotlyjs())
