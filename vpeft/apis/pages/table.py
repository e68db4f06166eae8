"""Tables in Markdown."""

from __future__ import annotations


def markdown_row(*cells: str) -> str:
    """One row."""
    return "| " + " | ".join(cells) + " |"
