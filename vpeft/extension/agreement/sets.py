"""Sets of pictures drawn: Venn and UpSet."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes

from vpeft.extension.agreement.similarity import regions
from vpeft.extension.drawing.plots import COLOURS


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
    ax.yaxis.get_major_locator().set_params(integer=True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xticks([])
    for i, (inside, _) in enumerate(counts):
        rows = [names.index(name) for name in inside]
        dots.scatter([i] * len(names), range(len(names)), color="#d9d9d9", s=30)
        dots.plot([i] * len(rows), rows, color="black", marker="o", markersize=5.5, linewidth=1.5)
    dots.set_yticks(range(len(names)), names)
    for i, members in enumerate(sets.values()):
        dots.text(len(counts) - 0.3, i, f"{len(members)}", va="center", fontsize=8)
    dots.text(len(counts) - 0.3, -0.9, "size", va="center", fontsize=8, color="0.35")
    dots.set_xticks([])
    dots.set_ylim(len(names) - 0.5, -1.2)
    dots.set_xlim(-0.6, len(counts) + 0.6)
    ax.set_xlim(-0.6, len(counts) + 0.6)
    dots.spines[:].set_visible(False)
    dots.tick_params(length=0)
