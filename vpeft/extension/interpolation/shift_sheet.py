"""A picture of what the shifts do."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from vpeft.core.datasets.embedded.mini import EMBEDDED, mini_split
from vpeft.core.datasets.embedded.shifts import MIXED, SEVERITIES, safe_shifts, shift_images
from vpeft.core.datasets.tasks import SUITES, get_task
from vpeft.extension.drawing.plots import figure, save_figure


def draw_shifts(task: str, path: str | os.PathLike[str]) -> Path:
    """One sample of an embedded task, plain and under every shift (rows) and severity (columns).

    Raises:
        UserError: Unknown task, or the name of the file ends otherwise than in .png or .svg.
    """
    suite = next((suite for suite in EMBEDDED if task in SUITES[suite]), "mini")
    name = get_task(task, suite).name
    images, _ = mini_split(name, "test", suite=suite)
    kinds = [*safe_shifts(name), MIXED]
    # The same sample throughout; of `mixed` the first, whose kind is drawn anew for every severity.
    shown = {(k, s): shift_images(images[:1], f"{k}-{s}", name)[0] for k in kinds for s in SEVERITIES}
    fig = figure(1 + 0.85 * (1 + len(SEVERITIES)), 0.3 + 0.85 * len(kinds))
    axes = fig.subplots(len(kinds), 1 + len(SEVERITIES))
    for row, kind in zip(axes, kinds, strict=True):
        tiles = [images[0], *(shown[kind, severity] for severity in SEVERITIES)]
        for ax, tile in zip(row, tiles, strict=True):
            ax.imshow(np.asarray(tile), interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
        row[0].set_ylabel(kind, rotation=0, ha="right", va="center")
    for ax, title in zip(axes[0], ["plain", *SEVERITIES], strict=True):
        ax.set_title(str(title), fontsize=9)
    return save_figure(fig, path)
