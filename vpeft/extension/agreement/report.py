"""Prediction analysis of several runs: numbers and pictures in one folder."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vpeft.core.trained.logits import Logits, read_logits
from vpeft.errors import UserError
from vpeft.extension.agreement.ensembles import ensemble_report
from vpeft.extension.agreement.sets import upset, venn
from vpeft.extension.agreement.similarity import (
    agreement,
    check_same_data,
    error_overlap,
    most_confident,
    regions,
    shared,
)
from vpeft.extension.drawing.plots import COLOURS, figure, heat_map, save_figure
from vpeft.files import write_atomically

KINDS = {"correct": True, "wrong": False}
_TITLES = ("same class predicted\n(share of all samples)", "both wrong\n(share of those that either gets wrong)")


def read_runs(folders: Sequence[str | os.PathLike[str]]) -> list[Logits]:
    """The stored predictions of runs on the same data; named by method, or by folder where methods repeat.

    Raises:
        UserError: A run has no stored logits or comes twice, or the data differ.
    """
    places = [Path(folder).resolve() for folder in folders]
    if double := next((place for place in places if places.count(place) > 1), None):
        raise UserError(f"{double} was given twice.")
    runs = [read_logits(folder) for folder in folders]
    forms = ([run.name for run in runs], [place.name for place in places], [str(folder) for folder in folders])
    names = next(form for form in forms if len(set(form)) == len(form))
    for run, name in zip(runs, names, strict=True):
        run.name = name
    check_same_data(runs)
    return runs


def compare_runs(runs: Sequence[Logits], k: int = 100) -> dict[str, Any]:
    """Everything that is compared, as plain numbers.

    Args:
        runs: Predictions of one test set (:func:`read_runs`).
        k: How many of the most confident correct and wrong predictions are compared.
    """
    check_same_data(runs)
    confident = {}
    for kind, correct in KINDS.items():
        sets = {run.name: set(most_confident(run, k, correct)) for run in runs}
        confident[kind] = {
            "sizes": {name: len(members) for name, members in sets.items()},
            "regions": {" & ".join(inside): count for inside, count in sorted(regions(sets).items())},
            "mean_shared": shared(sets),
            "samples": {name: [runs[0].samples[i] for i in sorted(members)] for name, members in sets.items()},
        }
    return {
        "data": runs[0].data,
        "count": len(runs[0].labels),
        "names": [run.name for run in runs],
        "agreement": agreement(runs).tolist(),
        "error_overlap": error_overlap(runs).tolist(),
        "k": k,
        "confident": confident,
        **ensemble_report(runs),
    }


def write_report(runs: Sequence[Logits], out: str | os.PathLike[str], k: int = 100) -> dict[str, Any]:
    """Write ``similarity.json``, ``similarity.png``, ``overlap.png`` and ``ensembles.png`` into the folder ``out``.

    Returns:
        What :func:`compare` gives.
    """
    report, out = compare_runs(runs, k), Path(out)
    names = report["names"]
    side = 2.6 + 0.42 * len(names)
    fig = figure(2 * side, side)
    for ax, key, title in zip(fig.subplots(1, 2), ("agreement", "error_overlap"), _TITLES, strict=True):
        heat_map(
            ax, np.array(report[key]), names, names, "{:.2f}" if len(names) <= 12 else None, label="share (1: all)"
        )
        ax.set_title(title, fontsize=10)
    save_figure(fig, out / "similarity.png")
    save_figure(_overlap(runs, k), out / "overlap.png")
    save_figure(_ensembles(report), out / "ensembles.png")
    write_atomically(out / "similarity.json", (json.dumps(report, indent=2) + "\n").encode())
    return report


def _overlap(runs: Sequence[Logits], k: int) -> Figure:
    if len(runs) <= 3:
        fig = figure(8, 4.3)
        fig.get_layout_engine().set(h_pad=0.15)
        for ax, (kind, correct) in zip(fig.subplots(1, 2), KINDS.items(), strict=True):
            venn(ax, {run.name: set(most_confident(run, k, correct)) for run in runs})
            ax.set_title(f"{k} most confident {kind} predictions")
        return fig
    fig = figure(10, 3 + 0.22 * len(runs))
    grid = fig.subplots(2, 2, height_ratios=[3, 0.25 * len(runs) + 0.6], sharey="row")
    for column, (kind, correct) in enumerate(KINDS.items()):
        upset(grid[0, column], grid[1, column], {run.name: set(most_confident(run, k, correct)) for run in runs})
        grid[0, column].set_title(f"{k} most confident {kind} predictions")
        grid[0, column].label_outer()
    return fig


def _ensembles(report: dict[str, Any]) -> Figure:
    bars = [*sorted(report["members"].items(), key=lambda item: item[1])]
    bars += [(f"{name} of all", one["accuracy"]) for name, one in report["ensembles"].items()]
    bars.append(("oracle of all", report["oracle"]))
    members = len(report["members"])
    colours = [COLOURS[0]] * members + [COLOURS[1]] * len(report["ensembles"]) + [COLOURS[2]]
    fig = figure(7, 1.2 + 0.3 * len(bars))
    ax = fig.subplots()
    ax.barh([name for name, _ in bars], [value for _, value in bars], color=colours)
    for i, (_, value) in enumerate(bars):
        ax.text(value, i, f"{value:.1f} ", ha="right", va="center", color="white", fontsize=8)
    ax.axvline(report["members"][report["best"]], color="black", linewidth=0.8, linestyle=":", zorder=0)
    ax.set_xlim(0, 109)
    ax.set_xlabel("top-1 accuracy in %; dotted: the best single run")
    ax.spines[["top", "right"]].set_visible(False)
    return fig


def agreement_summary(report: dict[str, Any]) -> str:
    """A report in a few lines."""
    lines = [
        f"{len(report['names'])} runs, {report['count']} samples of {report['data'].get('task') or 'one test set'}"
    ]
    lines += [f"  {name:<24} {value:6.2f} %" for name, value in sorted(report["members"].items(), key=lambda i: i[1])]
    for name, one in report["ensembles"].items():
        lines.append(f"  {name + ' of all':<24} {one['accuracy']:6.2f} %  ({one['gain']:+.2f} over {report['best']})")
    lines.append(f"  {'oracle of all':<24} {report['oracle']:6.2f} %")
    for kind, one in report["confident"].items():
        lines.append(
            f"  {report['k']} most confident {kind}: two runs share {100 * one['mean_shared']:.0f} % of them on average"
        )
    return "\n".join(lines)
