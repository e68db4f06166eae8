"""What the pictures of the analyses share: colours, heat maps, curves, sets, and writing a file whole."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from vpeft.errors import UserError, printable
from vpeft.files import write_atomically

#: Okabe and Ito's palette, told apart by colour-blind readers too; yellow, too light for lines, is left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
#: matplotlib's name of the one scale of numbers as colours; it can be read without seeing colours.
SCALE = "viridis"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def figure(width: float, height: float, **kwargs) -> Figure:
    """An empty figure, in inches, that gives its parts the room that they need."""
    return Figure((width, height), layout="constrained", **kwargs)


def save_figure(fig: Figure, path: str | os.PathLike[str], dpi: int = 110) -> Path:
    """Write a figure as PNG or SVG, atomically.

    Raises:
        UserError: The name ends otherwise.
    """
    kind = Path(path).suffix.lstrip(".")
    if kind not in ("png", "svg"):
        raise UserError(f"{path}: give a name that ends in .png or .svg.")
    for text in fig.findobj(Text):
        text.set_parse_math(False)  # a `$` in a name is a dollar
        text.set_text(printable(text.get_text(), lines=True))
    buffer = io.BytesIO()
    fig.savefig(buffer, format=kind, dpi=dpi)
    return write_atomically(path, buffer.getvalue())


def heat_map(
    ax: Axes,
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    text: str | None = None,
    limits: tuple[float, float] = (0.0, 1.0),
    label: str = "",
) -> None:
    """A labelled matrix; ``text`` formats the number in each cell, NaN stays empty, ``label`` names the scale."""
    image = ax.imshow(values, cmap=SCALE, vmin=limits[0], vmax=limits[1], aspect="auto", interpolation="nearest")
    ax.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(rows)), rows)
    if text:
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                bright = np.dot(image.to_rgba(value)[:3], (0.299, 0.587, 0.114)) > 0.4
                colour = "black" if bright else "white"
                ax.text(j, i, text.format(value), ha="center", va="center", color=colour, fontsize=8)
    ax.figure.colorbar(image, ax=ax, label=label)


def style(index: int) -> dict[str, str]:
    """Colour and marker of the line ``index``; beyond seven the lines are dashed."""
    line = "-" if index < len(COLOURS) else "--"
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)], "linestyle": line}
