"""Accuracy over alpha, on the run's own test set and on shifted ones."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, init_default_scope
from torch import Tensor
from torch.utils.data import DataLoader

from vpeft.core.datasets.embedded.shifts import parse_shift, safe_shifts
from vpeft.core.datasets.tasks import SPLITS
from vpeft.core.families.metrics import metric_name
from vpeft.core.models.build import build_model
from vpeft.core.trained.evaluate import evaluate
from vpeft.core.trained.run import Run, open_run
from vpeft.errors import UserError
from vpeft.extension.drawing.plots import figure, save_figure, style
from vpeft.extension.interpolation import ALPHAS
from vpeft.extension.interpolation.wise import Interpolation, head_of
from vpeft.files import write_atomically
from vpeft.registry import nearest

#: In the place of a run: the start of the run's own head.
INIT = "init"


def data_sets(run: Run, shifts: Sequence[str]) -> dict[str, DataLoader]:
    """The run's own test set, ``in distribution``, and others by name.

    Args:
        run: The run.
        shifts: Names in its config's field ``shifted`` (data sets, as in ``configs/robustness``), or shifts of an
            embedded task such as ``noise-3``.

    Raises:
        UserError: A name is neither.
    """
    named = dict(run.cfg.get("shifted") or {})
    own = run.cfg.test_dataloader.dataset
    sets = {"in distribution": own}
    for name in shifts:
        if name in named:
            sets[name] = ConfigDict({**own, **named[name]})
        elif _has_shifts(run):
            parse_shift(name, run.cfg.task)
            sets[name] = ConfigDict({**own, "shift": name})
        else:
            raise UserError(f"this run has no shifted test set {name!r}: {nearest(name, named) if named else 'none'}")
    init_default_scope(run.cfg.get("default_scope", "mmengine"))
    size = run.cfg.test_dataloader.get("batch_size", 64)
    workers = run.cfg.test_dataloader.get("num_workers", 0)
    return {
        name: DataLoader(DATASETS.build(copy.deepcopy(cfg)), size, num_workers=workers, collate_fn=pseudo_collate)
        for name, cfg in sets.items()
    }


def _has_shifts(run: Run) -> bool:
    suite = run.cfg.get("suite")
    return suite in SPLITS and SPLITS[suite].shifted


def default_shifts(run: Run) -> list[str]:
    """Every shifted test set that a run has; of an embedded task every kind at severity 3."""
    if _has_shifts(run):
        return [f"{kind}-3" for kind in safe_shifts(run.cfg.task)]
    return list(run.cfg.get("shifted") or {})


def start_head(start: str | os.PathLike[str], run: Run) -> dict[str, Tensor]:
    """The head at alpha 0.

    Args:
        start: Another run, such as a linear probe of the same task, or ``init``: what the run's own config starts with.
        run: The tuned run.

    Raises:
        UserError: The config's own head starts at random, which is no start to interpolate from.
    """
    if start != INIT:
        return head_of(open_run(start).model())
    model = build_model(run.cfg)
    model.init_weights()
    if not getattr(getattr(model, "head", None), "start_is_given", False):
        raise UserError(
            f"{run.folder}: its head starts at random. Only a head that is read from a file (EmbeddingHead) is a "
            "start; give another run's folder, such as a linear probe's, or keep the tuned head."
        )
    return head_of(model)


def wise_curve(
    run: Run,
    shifts: Sequence[str],
    alphas: Sequence[float] = ALPHAS,
    head: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Metrics over alpha.

    Args:
        run: The tuned run.
        shifts: Test sets besides its own (:func:`data_sets`).
        alphas: Values from 0 to 1.
        head: What has the start's head (:func:`start_head`); None leaves the tuned one at every alpha.
        progress: Told of every value.

    Returns:
        ``alphas``, ``metric``, ``curves`` by test set, ``shifted_mean`` (where there are shifts), ``how`` the models in
        between were made, ``head``, and ``best``: alpha with the largest mean of in-distribution and shifted.
    """
    sets = data_sets(run, shifts)
    model = run.model()
    batch = next(iter(sets["in distribution"]))

    def forward() -> None:
        with torch.no_grad():
            model.test_step({key: value[:2] for key, value in batch.items()})

    path = Interpolation(model, forward, None if head is None else start_head(head, run))
    curves: dict[str, list[float]] = {name: [] for name in sets}
    metric = run.cfg.get("main_metric")
    for alpha in alphas:
        with path.at(alpha):
            for name, loader in sets.items():
                metrics = evaluate(model, run, loader)
                metric = metric or next(iter(metrics))
                curves[name].append(float(metrics[metric]))
        progress(f"alpha {alpha:.2f}: " + ", ".join(f"{name} {values[-1]:.2f}" for name, values in curves.items()))
    report = {
        "run": run.label,
        "task": run.task,
        "alphas": list(alphas),
        "metric": metric,
        "curves": curves,
        "how": path.how(),
    }
    if len(sets) > 1:
        shifted = [values for name, values in curves.items() if name != "in distribution"]
        mean = [sum(values) / len(values) for values in zip(*shifted, strict=True)]
        both = [(a + b) / 2 for a, b in zip(curves["in distribution"], mean, strict=True)]
        report |= {"shifted_mean": mean, "best": alphas[both.index(max(both))]}
    return report


def draw_curves(reports: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> Path:
    """In-distribution against mean shifted metric, a line per run from alpha 0 to 1; or over alpha without shifts."""
    fig = figure(8.4 if "shifted_mean" in reports[0] else 5, 3.8)
    axes = fig.subplots(1, 2 if "shifted_mean" in reports[0] else 1, squeeze=False)[0]
    for i, report in enumerate(reports):
        look = {**style(i), "markersize": 4, "linewidth": 1.3, "label": report["run"]}
        axes[0].plot(report["alphas"], report["curves"]["in distribution"], **look)
        if "shifted_mean" in report:
            axes[0].plot(report["alphas"], report["shifted_mean"], **{**look, "linestyle": ":", "label": None})
            axes[1].plot(report["shifted_mean"], report["curves"]["in distribution"], **look)
            ends = [(report["shifted_mean"][i], report["curves"]["in distribution"][i]) for i in (0, -1)]
            axes[1].plot(*ends[1], marker="*", markersize=11, color=look["color"])
    metric = metric_name(reports[0]["metric"])
    axes[0].set_xlabel("alpha (0: start, 1: tuned)")
    axes[0].set_ylabel(metric)
    axes[0].set_title("solid: in distribution, dotted: shifted" if len(axes) > 1 else "in distribution", fontsize=9)
    if len(axes) > 1:
        axes[1].set_xlabel(f"shifted, mean of {len(reports[0]['curves']) - 1}: {metric}")
        axes[1].set_ylabel(f"in distribution: {metric}")
        axes[1].set_title("from the start to the tuned model (star)", fontsize=9)
    for ax in axes:
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    axes[-1].legend(fontsize=8, frameon=False)
    return save_figure(fig, path)


def write_curves(reports: Sequence[Mapping[str, Any]], out: str | os.PathLike[str]) -> None:
    """Write ``wise.json`` and ``wise.png`` into the folder ``out``."""
    write_atomically(Path(out) / "wise.json", (json.dumps(list(reports), indent=2) + "\n").encode())
    draw_curves(reports, Path(out) / "wise.png")
