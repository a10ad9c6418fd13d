"""Small pieces of HTML: harmless text, and tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from sweeps.wording import plain


def harmless(text: str) -> str:
    """Return a stranger's words as HTML text: no element, no control sign."""
    return escape(plain(text))


def html_table(
    heads: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], classes: Sequence[str], width: str = "wide"
) -> str:
    """Return a table from HTML cells, a class for each column; a row is (attributes of its element, cells)."""
    kinds = [f' class="{name}"' if name else "" for name in classes]
    head = "".join(f"<th{kind}>{cell}</th>" for kind, cell in zip(kinds, heads, strict=True))
    lines = []
    for attributes, cells in rows:
        inner = "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, cells, strict=True))
        lines.append(f"<tr{' ' if attributes else ''}{attributes}>{inner}</tr>")
    body = "\n".join(lines)
    return f'<div class="{width}"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'
