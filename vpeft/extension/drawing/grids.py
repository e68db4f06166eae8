"""Grids of images with what is laid over them, named and at one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from vpeft.extension.drawing.plots import SCALE, figure


@dataclass
class GridCell:
    """One panel: an image, what is laid over it, and a text below."""

    image: np.ndarray
    values: np.ndarray | None = None
    text: str = ""
    colour: str = "black"


@dataclass
class Grid:
    """Rows of panels with their names."""

    rows: list[list[GridCell]]
    left: list[str]
    top: list[str]


def draw_grid(
    grid: Grid,
    label: str = "",
    title: str = "",
    legend: Sequence[tuple[str, tuple[float, ...]]] = (),
    side: float = 1.55,
) -> Figure:
    """The grid as a figure.

    Args:
        grid: The panels.
        label: What the numbers of the maps are; one scale of colours is used for all of them.
        title: A line above.
        legend: Names and colours, for panels that show classes.
        side: Width of a panel in inches.
    """
    columns, rows = len(grid.top), len(grid.rows)
    lines = max(cell.text.count("\n") + bool(cell.text) for row in grid.rows for cell in row)
    fig = figure(side * columns + 1.6, (side + 0.15 * lines) * rows + (0.7 if title else 0.35))
    fig.get_layout_engine().set(w_pad=0.03, h_pad=0.09, wspace=0.0, hspace=0.0)
    axes = fig.subplots(rows, columns, squeeze=False)
    values = [cell.values for row in grid.rows for cell in row if cell.values is not None]
    low = min((float(v.min()) for v in values), default=0.0)
    high = max((float(v.max()) for v in values), default=1.0)
    shown = None
    for i, row in enumerate(grid.rows):
        for j, cell in enumerate(row):
            ax = axes[i, j]
            height, width = cell.image.shape[:2]
            place = {"extent": (0, width, height, 0), "interpolation": "nearest"}
            if cell.values is None:
                ax.imshow(cell.image, **place)
            else:
                ax.imshow(cell.image.mean(-1), cmap="gray", vmin=0, vmax=255, **place)
                shown = ax.imshow(cell.values, cmap=SCALE, vmin=low, vmax=high, alpha=0.65, **place)
            ax.set(xticks=[], yticks=[])
            ax.set_xlabel(cell.text, fontsize=8, color=cell.colour)
            if i == 0:
                ax.set_title(grid.top[j], fontsize=9)
            if j == 0:
                ax.set_ylabel(grid.left[i], fontsize=8)
    if shown is not None:
        bar = fig.colorbar(
            shown, ax=axes, label=fill(label, 10 + 18 * rows), shrink=min(1.0, 2.2 / rows + 0.3), aspect=25, pad=0.02
        )
        bar.ax.tick_params(labelsize=8)
    if legend:
        patches = [Patch(facecolor=colour, edgecolor="0.4", label=name) for name, colour in legend]
        fig.legend(handles=patches, loc="outside right center", fontsize=8, frameon=False)
    if title:
        fig.suptitle(title, fontsize=10)
    return fig
