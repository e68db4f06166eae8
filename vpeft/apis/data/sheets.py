"""Sheets that show what a task's data look like."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from mmengine.dataset import BaseDataset

from vpeft.core.datasets.classification.listed import ListedImages
from vpeft.core.datasets.embedded.mini import MiniVTAB
from vpeft.core.datasets.load.image import LoadImage
from vpeft.core.datasets.tasks import SPLITS, SUITES, get_task
from vpeft.errors import UserError
from vpeft.files import write_atomically
from vpeft.registry import nearest

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def contact_sheet(
    path: str | os.PathLike[str],
    tasks: Sequence[str] | None = None,
    samples: int = 10,
    suite: str = "mini",
    root: str | os.PathLike[str] | None = None,
) -> Path:
    """Draw training samples of a suite's tasks, one task per row, with their classes.

    Args:
        path: The PNG file.
        tasks: Names of tasks; None means all.
        samples: Images per task, of as many classes as there are.
        suite: Key of the suite.
        root: Folder that holds the data of a suite that is read from files.

    Returns:
        The path.

    Raises:
        UserError: There is no such suite or task, or its files are missing.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kind = _reader(suite)
    options = {} if root is None else {"data_root": os.fspath(root)}
    chosen = [get_task(name, suite) for name in (tasks or SUITES[suite])]
    figure = Figure(figsize=(1.0 * samples + 2.0, 1.22 * len(chosen)), dpi=100)
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(chosen), samples, squeeze=False)
    figure.subplots_adjust(left=2.1 / (samples + 2.0), right=0.995, top=0.97, bottom=0.01, wspace=0.06, hspace=0.38)
    for row, task in zip(grid, chosen, strict=True):
        data = kind(task=task.name, split=SPLITS[suite].tune, **options)
        labels = np.array([data.get_data_info(index)["gt_label"] for index in range(len(data))])
        for axis, index in zip(row, _spread(labels, samples), strict=True):
            axis.imshow(_picture(data.get_data_info(index)), interpolation="nearest")
            name = data.metainfo.get("classes", range(task.num_classes))[labels[index]]
            axis.set_title(fill(str(name).replace("_", " "), 12, break_long_words=False), fontsize=7.5, pad=2)
            axis.set_axis_off()
        text = "\n".join([task.name.replace("_", " "), f"{task.group or suite}, {task.num_classes} classes"])
        row[0].text(-0.15, 0.5, text, transform=row[0].transAxes, ha="right", va="center", fontsize=9)
    return _write_palette(path, figure, 256)


def _reader(suite: str) -> type[BaseDataset]:
    readers = {**MiniVTAB.readers, **ListedImages.readers}
    if suite not in readers:
        raise UserError(f"unknown suite {suite!r}: {nearest(suite, readers)}")
    return readers[suite]


def _picture(sample: Mapping[str, Any]) -> np.ndarray:
    """A sample's image in RGB."""
    return LoadImage().transform(dict(sample))["img"][..., ::-1]


def label_map_sheet(path: str | os.PathLike[str], samples: int = 6) -> Path:
    """Draw training scenes above their label maps, with the colours and names of the classes.

    Args:
        path: The PNG file.
        samples: How many scenes.

    Returns:
        The path.
    """
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    from vpeft.core.datasets.embedded.scenes import draw_split
    from vpeft.core.datasets.segmentation.scenes import SceneMaps

    names = SceneMaps.METAINFO["classes"]
    colours = [tuple(value / 255 for value in colour) for colour in SceneMaps.METAINFO["palette"]]
    figure = Figure(figsize=(1.1 * samples, 2.7), dpi=80)
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, samples, squeeze=False)
    figure.subplots_adjust(left=0.005, right=0.995, top=0.995, bottom=0.15, wspace=0.04, hspace=0.04)
    for (above, below), scene in zip(grid.T, draw_split("train", samples), strict=True):
        above.imshow(scene.image, interpolation="nearest")
        below.imshow(
            scene.label_map, ListedColormap(colours), vmin=-0.5, vmax=len(names) - 0.5, interpolation="nearest"
        )
        above.set_axis_off()
        below.set_axis_off()
    patches = [Patch(facecolor=colour, label=name) for colour, name in zip(colours, names, strict=True)]
    figure.legend(
        handles=patches,
        loc="lower center",
        ncols=len(names),
        frameon=False,
        fontsize=9,
        columnspacing=0.8,
        handlelength=1.2,
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return write_atomically(path, buffer.getvalue())


def object_sheet(path: str | os.PathLike[str], samples: int = 8) -> Path:
    """Draw training scenes with the boxes, outlines and names of their objects.

    Args:
        path: The PNG file.
        samples: How many scenes, in rows of four.

    Returns:
        The path.
    """
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
    from PIL import Image

    from vpeft.core.datasets.embedded.scenes import CLASSES, SIZE, draw_split

    rows = -(-samples // 4)
    figure = Figure(figsize=(7.2, 1.8 * rows), dpi=80)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 4, squeeze=False).flat
    figure.subplots_adjust(left=0.003, right=0.997, top=0.997, bottom=0.003, wspace=0.02, hspace=0.02)
    for axis, scene in zip(axes, draw_split("train", samples), strict=False):
        axis.imshow(scene.image, interpolation="nearest")
        for label, mask, (x1, y1, x2, y2) in zip(scene.labels, scene.masks, scene.boxes, strict=True):
            # Black under white: seen on every colour.
            axis.contour(mask, [0.5], colors="black", linewidths=1.8)
            axis.contour(mask, [0.5], colors="white", linewidths=0.8)
            # Pixels have their centres at whole numbers.
            axis.add_patch(Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, edgecolor="white", ls=":"))
            at = (min(x1, SIZE - 16), y1 - 1.5 if y1 > 6 else y2 + 4.5)
            axis.text(*at, CLASSES[label], fontsize=6, color="white", bbox={"facecolor": "black", "pad": 0.6})
    for axis in figure.axes:
        axis.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    small = io.BytesIO()
    Image.open(buffer).quantize(128, dither=Image.Dither.NONE).save(small, format="png", optimize=True)
    return write_atomically(path, small.getvalue())


def clip_sheet(path: str | os.PathLike[str]) -> Path:
    """Draw the frames of one clip of every class of the moving shapes, a row each.

    Args:
        path: The PNG file.

    Returns:
        The path.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from vpeft.core.datasets.embedded.moving_shapes import CLASSES, FRAMES, SIZE, clip

    figure = Figure(figsize=(0.5 * FRAMES + 0.7, 0.5 * len(CLASSES)), dpi=80)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(CLASSES), 1)
    figure.subplots_adjust(left=0.1, right=0.995, top=0.99, bottom=0.01, hspace=0.06)
    for label, axis in enumerate(axes):
        frames = clip(np.random.default_rng([1, label]), label)
        axis.imshow(np.concatenate(frames, 1), interpolation="nearest")
        for frame in range(1, FRAMES):
            axis.axvline(frame * SIZE - 0.5, color="white", linewidth=1)
        axis.text(-4, SIZE / 2, CLASSES[label], ha="right", va="center", fontsize=9)
        axis.set_axis_off()
    return _write_palette(path, figure, 128)


def _write_palette(path: str | os.PathLike[str], figure: Figure, colours: int) -> Path:
    """Write a figure as PNG of so many colours, a fraction of the size."""
    import io

    from PIL import Image

    buffer, small = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, format="png")
    image = Image.open(buffer).convert("RGB").quantize(colours, dither=Image.Dither.NONE)
    image.save(small, format="png", optimize=True)
    return write_atomically(path, small.getvalue())


def _spread(labels: np.ndarray, samples: int) -> list[int]:
    """Indices of the first images of each class, class after class."""
    classes = np.unique(labels)
    rounds = -(-samples // len(classes))
    found = [np.flatnonzero(labels == c)[:rounds] for c in classes]
    order = sorted((i, c, int(index)) for c, rows in enumerate(found) for i, index in enumerate(rows))
    picked = [index for _, _, index in order[:samples]]
    return sorted(picked, key=lambda index: labels[index])
