"""What the pictures of the analyses share: colours, heat maps, curves, sets, and writing a file whole."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vpeft.errors import UserError
from vpeft.extension.similarity import regions
from vpeft.files import write_atomically

#: Okabe and Ito's palette, told apart by colour-blind readers too; yellow, too light for lines, is left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
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
    """A labelled matrix in cividis; ``text`` formats the number in each cell, NaN stays empty."""
    image = ax.imshow(values, cmap="cividis", vmin=limits[0], vmax=limits[1], aspect="auto", interpolation="nearest")
    ax.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(rows)), rows)
    if text:
        middle = sum(limits) / 2
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                colour = "white" if value < middle else "black"
                ax.text(j, i, text.format(value), ha="center", va="center", color=colour, fontsize=8)
    ax.figure.colorbar(image, ax=ax, label=label)


def style(index: int) -> dict[str, str]:
    """Colour and marker of the line ``index``; beyond seven the lines are dashed."""
    line = "-" if index < len(COLOURS) else "--"
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)], "linestyle": line}


def venn(ax: Axes, sets: Mapping[str, set]) -> None:
    """A Venn diagram of two or three sets; all regions of one size, so that every count can be read."""
    from matplotlib_venn import venn2, venn3
    from matplotlib_venn.layout.venn2 import DefaultLayoutAlgorithm as Layout2
    from matplotlib_venn.layout.venn3 import DefaultLayoutAlgorithm as Layout3

    draw, layout, count = (venn2, Layout2, 3) if len(sets) == 2 else (venn3, Layout3, 7)
    draw(
        list(sets.values()),
        tuple(sets),
        set_colors=COLOURS[: len(sets)],
        alpha=0.45,
        ax=ax,
        layout_algorithm=layout(fixed_subset_sizes=(1,) * count),
    )


def upset(ax: Axes, dots: Axes, sets: Mapping[str, set], most: int = 14) -> None:
    """An UpSet plot: the largest exclusive intersections as bars, and below each which sets it is of.

    Args:
        ax: For the bars.
        dots: For the matrix of dots, below and of the same width.
        sets: Sets by name.
        most: How many intersections are drawn.
    """
    names = list(sets)
    counts = sorted(regions(sets).items(), key=lambda item: (-item[1], len(item[0]), item[0]))[:most]
    x = range(len(counts))
    ax.bar(x, [count for _, count in counts], color=COLOURS[0], width=0.6)
    for i, (_, count) in enumerate(counts):
        ax.text(i, count, str(count), ha="center", va="bottom", fontsize=8)
    ax.set_ylabel("samples")
    ax.margins(y=0.15)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xticks([])
    for i, (inside, _) in enumerate(counts):
        rows = [names.index(name) for name in inside]
        dots.scatter([i] * len(names), range(len(names)), color="#d9d9d9", s=30)
        dots.plot([i] * len(rows), rows, color="black", marker="o", markersize=5.5, linewidth=1.5)
    dots.set_yticks(range(len(names)), names)
    for i, members in enumerate(sets.values()):
        dots.text(len(counts) - 0.3, i, f"{len(members)}", va="center", fontsize=8)
    dots.set_xticks([])
    dots.set_ylim(len(names) - 0.5, -0.5)
    dots.set_xlim(-0.6, len(counts) + 0.6)
    ax.set_xlim(-0.6, len(counts) + 0.6)
    dots.spines[:].set_visible(False)
    dots.tick_params(length=0)
