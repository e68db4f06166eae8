"""Names and messages from result files as Markdown and CSV may show them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

from vpeft.errors import printable

#: First signs of a cell that spreadsheets read as a formula, full-width ones included.
FORMULA = "=+-@\uff1d\uff0b\uff0d\uff20"


def markdown_text(text: object) -> str:
    """Text as Markdown shows it, in a table too: no tag, link, code or column comes of it."""
    text = re.sub(r"([\\`|])", r"\\\1", printable(text))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("](", "]\\(")


def spread_text(std: float | None, pooled: float | None = None) -> str:
    """A spread over seeds in points, behind a mean; in brackets the one pooled from the tasks' own. Never zero."""

    def points(value: float) -> str:
        return f"{100 * value:.1f}" if 100 * value >= 0.05 else "< 0.1"

    if std is None:
        return "" if pooled is None else f" (± {points(pooled)})"
    return f" ± {points(std)}" + ("" if pooled is None else f" ({points(pooled)})")


def table_line(cells: Iterable[object]) -> str:
    """A line of a table; cells that are made of several are :func:`markdown_text` already."""
    return "| " + " | ".join(map(str, cells)) + " |"


def markdown_code(text: object) -> str:
    """Text as Markdown's code, whatever backticks it holds."""
    text = printable(text)
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"


def csv_cell(value: Any) -> Any:
    """A cell of a CSV: numbers as they are; text that a spreadsheet would read as a formula behind an apostrophe."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    first = text.lstrip()[:1]
    return f"'{text}" if first and first in FORMULA and not _is_number(text) else text


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", text) is not None


def csv_text(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A CSV with its head."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([csv_cell(value) for value in row] for row in (head, *rows))
    return out.getvalue()
