"""A user's own data on one screen, and on one sheet."""

from __future__ import annotations

import io
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from vpeft.core.datasets.load.image import LoadImage
from vpeft.core.datasets.own.found import TEST, TRAIN, VAL, OwnSample
from vpeft.core.datasets.own.inspect import OwnLook
from vpeft.core.datasets.own.walk import is_video
from vpeft.errors import printable
from vpeft.files import write_atomically

#: Classes that are shown; of more the rest is counted.
MOST_ROWS = 20
#: Of a sheet: classes, and samples of each.
SHEET_ROWS, SHEET_SAMPLES = 12, 8
#: Modes of PIL in words.
_MODES = {
    "L": "grey",
    "LA": "grey with alpha",
    "RGBA": "with alpha",
    "P": "palette",
    "CMYK": "CMYK",
    "1": "black and white",
}


def own_screen(seen: OwnLook) -> Group:
    """What was seen, for a terminal: what it is, counts by class and part, sizes, kinds of pixels, warnings."""
    parts = [part for part in (TRAIN, VAL, TEST) if seen.data.part(part)]
    table = Table("class", *parts, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    counts = seen.counts()
    for name in list(counts)[:MOST_ROWS]:
        table.add_row(Text(printable(name)), *(f"{counts[name][part]:,}" for part in parts))
    if len(counts) > MOST_ROWS:
        table.add_row(f"and {len(counts) - MOST_ROWS} more", *("" for _ in parts))
    lines = [*map(Text, _sizes(seen)), *(Text(line, style="yellow") for line in seen.warnings())]
    return Group(Text(seen.data.said(), style="bold"), Text(""), table, Text(""), *lines)


def _sizes(seen: OwnLook) -> Iterator[str]:
    sizes = np.array([fact.size for fact in seen.facts if fact.size])
    if len(sizes):
        (w1, h1), (w, h), (w2, h2) = (np.percentile(sizes, q, axis=0).astype(int) for q in (0, 50, 100))
        spread = f" (median), widths {w1} to {w2}, heights {h1} to {h2}" if (w1, h1) != (w2, h2) else ""
        yield f"size: {w} x {h}{spread}"
    modes = Counter(_mode(fact.mode) for fact in seen.facts if fact.mode)
    turned = sum(fact.turned for fact in seen.facts)
    words = [f"{count:,} {name}" for name, count in modes.most_common()]
    words += [f"{turned:,} turned by EXIF"] * bool(turned)
    if words and words != [f"{len(seen.facts):,} RGB"]:
        yield f"pixels: {', '.join(words)}"


def _mode(mode: str) -> str:
    return "16 bits" if mode.startswith("I") else _MODES.get(mode, mode)


def own_sheet(seen: OwnLook, path: str | os.PathLike[str]) -> Path:
    """Draw samples of every class, a row each, with boxes, outlines or maps over them; of a clip three frames.

    Args:
        seen: The data.
        path: The PNG file.

    Returns:
        The path.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = {name: [] for name in seen.data.classes[:SHEET_ROWS]}
    for sample in seen.data.samples:
        for label in sample.labels:
            if label < len(rows) and len(rows[seen.data.classes[label]]) < SHEET_SAMPLES:
                rows[seen.data.classes[label]].append(sample)
    figure = Figure(figsize=(1.2 * SHEET_SAMPLES + 1.6, 1.25 * len(rows)), dpi=80)
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), SHEET_SAMPLES, squeeze=False)
    figure.subplots_adjust(
        left=1.6 / (1.2 * SHEET_SAMPLES + 1.6), right=0.99, top=0.99, bottom=0.01, wspace=0.05, hspace=0.05
    )
    for axes, (name, samples) in zip(grid, rows.items(), strict=True):
        axes[0].text(-0.1, 0.5, printable(name)[:24], transform=axes[0].transAxes, ha="right", va="center", fontsize=9)
        for axis in axes:
            axis.set_axis_off()
        for axis, sample in zip(axes, samples, strict=False):
            _draw(axis, sample)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of signs that the font lacks
        figure.savefig(buffer, format="png")
    return write_atomically(path, buffer.getvalue())


def _draw(axis: Any, sample: OwnSample) -> None:
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Polygon, Rectangle

    from vpeft.extension.drawing.plots import COLOURS

    axis.imshow(_pixels(sample))
    for one in sample.objects:
        x, y, width, height = one["bbox"]
        axis.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor="white", linewidth=1.5))
        axis.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor="black", linewidth=0.7, ls=":"))
        for outline in one["segmentation"] if isinstance(one.get("segmentation"), list) else ():
            axis.add_patch(Polygon(np.reshape(outline, (-1, 2)), fill=True, alpha=0.35, color="white"))
    if sample.label_map is not None:
        from PIL import Image

        with Image.open(sample.label_map) as label_map:
            shown = np.ma.masked_equal(np.asarray(label_map), 0)
        scale = {"cmap": ListedColormap(COLOURS), "vmin": 0, "vmax": len(COLOURS) - 1}
        axis.imshow((shown - 1) % len(COLOURS), **scale, alpha=0.5, interpolation="nearest")


def _pixels(sample: OwnSample) -> np.ndarray:
    """An image in RGB; of a clip its first, middle and last frame beside each other."""
    if sample.frames:
        places = (0, len(sample.frames) // 2, len(sample.frames) - 1)
        return np.concatenate([LoadImage.read(sample.frames[i])[..., ::-1] for i in places], axis=1)
    if is_video(sample.path):
        import decord

        reader = decord.VideoReader(str(sample.path), num_threads=1)
        return np.concatenate(list(reader.get_batch([0, len(reader) // 2, len(reader) - 1]).asnumpy()), axis=1)
    return LoadImage.read(sample.path)[..., ::-1]
