"""Inside methods: sizes of their updates, CKA with the frozen host, what they selected; numbers and pictures."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from vpeft.core.trained.run import Run
from vpeft.errors import UserError
from vpeft.extension.changes.cka import frozen_against_tuned
from vpeft.extension.changes.selected import Selection, selections
from vpeft.extension.changes.updates import Size, contribution_sizes, weight_sizes
from vpeft.extension.drawing.plots import SCALE, figure, heat_map, save_figure, style
from vpeft.extension.interpolation.wise import Interpolation
from vpeft.files import write_atomically

#: Blocks and channels beyond which a matrix is drawn without numbers.
MOST_NUMBERS = 14


def inside(run: Run, count: int = 256, size: int = 64) -> dict[str, Any]:
    """What a run's method does inside its host.

    Args:
        run: The run.
        count: Test samples that are looked at.
        size: Samples in a batch.

    Returns:
        ``contributions`` and ``weights`` (:class:`~vpeft.extension.changes.updates.Size`), ``cka`` of the shape
        ``(blocks, blocks)``, ``selected`` (empty where nothing is selected).
    """
    model = run.model()
    places = range(min(count, len(run.dataset())))
    batches = list(run.batches(list(places), size))
    path = None
    try:
        with torch.no_grad():
            path = Interpolation(model, lambda: model.test_step(batches[0]))
        weights = weight_sizes(path)
        contributed = contribution_sizes(model, batches, model.test_step)
    except UserError:
        if path is not None:
            raise
        weights, contributed = [], []  # its output has another shape than the frozen host's: only CKA can be had
    try:
        selected = selections(model)
    except UserError:
        selected = []
    cka = frozen_against_tuned(model, batches)
    return {"run": run, "weights": weights, "contributions": contributed, "cka": cka, "selected": selected}


def matrix(sizes: Sequence[Size], blocks: int) -> tuple[np.ndarray, list[str]]:
    """Relative sizes ``(places, blocks)`` with the places' names; several of one name in a block are joined."""
    names = list(dict.fromkeys(size.where for size in sizes if size.block is not None))
    squares = np.zeros((len(names), blocks))
    there = np.zeros((len(names), blocks), bool)
    for size in sizes:
        if size.block is not None:
            squares[names.index(size.where), size.block] += size.value**2
            there[names.index(size.where), size.block] = True
    return np.where(there, np.sqrt(squares), np.nan), names


def draw_updates(found: dict[str, Any]) -> Figure | None:
    """Heat maps of contributions and of weight changes over blocks; None where there are neither."""
    blocks = len(found["cka"])
    titles = {
        "contributions": "what it adds, relative to what passes",
        "weights": "change of each weight, relative to it",
    }
    parts = [(title, *matrix(found[key], blocks)) for key, title in titles.items()]
    parts = [part for part in parts if part[2]]
    if not parts:
        return None
    fig = figure(2.4 + 0.55 * blocks + 1.2, 0.9 + sum(0.85 + 0.3 * len(names) for *_, names in parts))
    axes = fig.subplots(len(parts), 1, height_ratios=[1 + len(names) for *_, names in parts], squeeze=False)[:, 0]
    for ax, (title, values, names) in zip(axes, parts, strict=True):
        top = float(np.nanmax(np.where(np.isfinite(values), values, np.nan)))
        numbers = "{:.2f}" if blocks <= MOST_NUMBERS else None
        heat_map(ax, values, names, [str(i) for i in range(blocks)], numbers, (0, max(top, 1e-12)), "share of its norm")
        ax.set_xticks(range(blocks), [str(i) for i in range(blocks)], rotation=0, ha="center")
        ax.set_title(title, fontsize=9)
    axes[-1].set_xlabel("block")
    fig.suptitle(found["run"].label, fontsize=11)
    return fig


def draw_structure(label: str, selected: Sequence[Selection], blocks: int) -> Figure:
    """How much is used per block, and where only some channels are, which."""
    inside_blocks = [one for one in selected if one.block is not None]
    names = list(dict.fromkeys(one.name for one in inside_blocks))
    counts = np.full((len(names), blocks), np.nan)
    for one in inside_blocks:
        counts[names.index(one.name), one.block] = one.count
    partial = [name for name in names if any(one.share < 1 for one in inside_blocks if one.name == name)]
    heights = [0.6 + 0.3 * len(names), *[0.5 + 0.16 * blocks] * len(partial)]
    fig = figure(7.5, 0.5 + sum(heights) + 0.35 * len(heights))
    axes = fig.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    columns = [str(i) for i in range(blocks)]
    top = float(np.nanmax(counts))
    heat_map(axes[0], counts, names, columns, "{:.0f}" if blocks <= MOST_NUMBERS else None, (0, top), "number")
    axes[0].set_xticks(range(blocks), columns, rotation=0, ha="center")
    axes[0].set_title("how much is used, by block", fontsize=9)
    for ax, name in zip(axes[1:], partial, strict=True):
        rows = [one for one in inside_blocks if one.name == name]
        values = np.stack([one.by_channel.numpy() for one in rows])
        image = ax.imshow(values, cmap=SCALE, aspect="auto", interpolation="nearest")
        ax.set_yticks(range(len(rows)), [str(one.block) for one in rows], fontsize=7)
        ax.set_ylabel("block", fontsize=8)
        ax.set_title(f"{name}: how often each channel is used", fontsize=9)
        fig.colorbar(image, ax=ax, label="times")
    axes[-1].set_xlabel("block" if len(axes) == 1 else "channel")
    fig.suptitle(label, fontsize=11)
    return fig


def draw_cka(found: Sequence[dict[str, Any]]) -> Figure:
    """CKA of every block with itself when frozen, a line per run, and the whole matrix of up to four runs."""
    shown = found[:4]
    fig = figure(4.2 + 2.0 * len(shown), 2.9)
    axes = fig.subplots(1, 1 + len(shown), width_ratios=[1.6, *[1] * len(shown)])
    for i, one in enumerate(found):
        values = one["cka"].diagonal().numpy()
        axes[0].plot(range(len(values)), values, **style(i), markersize=4, label=one["run"].label)
    axes[0].set_xlabel("block")
    axes[0].set_ylabel("CKA, frozen with tuned")
    axes[0].set_ylim(min(0, *(float(one["cka"].diagonal().min()) for one in found)) - 0.02, 1.05)
    axes[0].grid(alpha=0.3)
    axes[0].spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=8, frameon=False)
    for ax, one in zip(axes[1:], shown, strict=True):
        image = ax.imshow(one["cka"].numpy(), cmap=SCALE, vmin=0, vmax=1, origin="lower")
        ax.set_title(one["run"].label, fontsize=9)
        ax.set_xlabel("tuned block", fontsize=8)
        ax.set_xticks(range(len(one["cka"])) if len(one["cka"]) <= MOST_NUMBERS else ax.get_xticks())
        ax.set_yticks(range(len(one["cka"])) if ax is axes[1] and len(one["cka"]) <= MOST_NUMBERS else [])
    axes[1].set_ylabel("frozen block", fontsize=8)
    fig.colorbar(image, ax=axes[-1], label="CKA (1: the same)")
    return fig


def write_inside(runs: Sequence[Run], out: str | os.PathLike[str], count: int = 256) -> list[dict[str, Any]]:
    """Write ``inside.json``, ``cka.png``, and per run ``<label>_updates.png`` and ``<label>_structure.png``.

    Raises:
        UserError: The runs' hosts have different numbers of blocks.
    """
    found = [inside(run, count) for run in runs]
    lengths = {one["run"].label: len(one["cka"]) for one in found}
    if len(set(lengths.values())) > 1:
        raise UserError(f"the hosts have different numbers of blocks {lengths}: look at runs of one host together.")
    out = Path(out)
    numbers = []
    for one in found:
        label = one["run"].label
        name = re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_")
        if (fig := draw_updates(one)) is not None:
            save_figure(fig, out / f"{name}_updates.png")
        if one["selected"]:
            save_figure(draw_structure(label, one["selected"], len(one["cka"])), out / f"{name}_structure.png")
        numbers.append(
            {
                "run": label,
                "contributions": [vars(size) for size in one["contributions"]],
                "weights": [vars(size) for size in one["weights"]],
                "cka": one["cka"].tolist(),
                "selected": [
                    {"name": s.name, "block": s.block, "count": s.count, "share": s.share} for s in one["selected"]
                ],
            }
        )
    save_figure(draw_cka(found), out / "cka.png")
    write_atomically(out / "inside.json", (json.dumps(numbers, indent=2) + "\n").encode())
    return numbers
