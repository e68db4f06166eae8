"""The JSON of a run."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from mmengine import Config
from torch import Tensor, nn

from vpeft.core.adaptation.report import parameter_report
from vpeft.core.families.metrics import FAMILY_PACKAGES, main_metric, ppt
from vpeft.core.families.per_class import class_lines
from vpeft.core.trained.code import code_hash, git_hash
from vpeft.errors import UserError

PACKAGES = ("torch", "torchvision", "onedl-mmengine", "onedl-mmcv", "onedl-mmpretrain", "timm", "vpeft")
#: Of the report of the parameters.
COUNTED = ("trainable_without_head", "head", "total", "frozen", "rel_pos_tables", "stored_bytes", "stored_head_bytes")


def run_result(
    cfg: Config,
    model: nn.Module,
    metrics: dict[str, float],
    checkpoint: str,
    per_class: Mapping[str, Any] | None = None,
    tested: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a run has shown, and all that is needed to run it again.

    Args:
        cfg: The run's config.
        model: The tested model.
        metrics: What the evaluator gave, such as ``accuracy/top1``.
        checkpoint: The tested file.
        per_class: The figure of every class, where there is one (:mod:`vpeft.core.families.per_class`).
        tested: Which images were answered rightly, where they have one label (:mod:`vpeft.core.families.tested`).
    """
    report = parameter_report(model).as_dict()
    metric = main_metric(metrics, cfg.get("main_metric"))
    family = FAMILY_PACKAGES.get(cfg.get("default_scope"))
    packages = PACKAGES if family is None else (*PACKAGES, family)
    return {
        "config": Path(cfg.filename or "").name,
        "suite": cfg.get("suite"),
        "task": cfg.get("task"),
        "train_split": cfg.get("train_split"),
        "eval_split": cfg.get("eval_split"),
        "data_variant": data_variant(cfg),
        "normalisation": cfg.get("normalisation"),
        "augmentation": cfg.get("augmentation"),
        **({"views": views} if (views := (cfg.get("feature_cache") or {}).get("views")) else {}),
        "seed": cfg.get("randomness", {}).get("seed"),
        "epochs": cfg.get("train_cfg", {}).get("max_epochs"),
        "metrics": {name: metric_json(value) for name, value in metrics.items()},
        "main_metric": metric,
        **({} if per_class is None else {"per_class": dict(per_class)}),
        **({} if tested is None else {"test_answers": dict(tested)}),
        "ppt": None
        if metric is None or metric["value"] is None
        else ppt(metric["value"], report["trainable_without_head"]),
        "parameters": {k: report[k] for k in COUNTED},
        "methods": report["methods"],
        "host": report["host"],
        "checkpoint": str(checkpoint),
        "checkpoint_bytes": os.path.getsize(checkpoint),
        "git": git_hash(),
        "code": code_hash(),
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in packages}},
        "full_config": cfg.pretty_text,
    }


def metric_json(value: Any) -> Any:
    """A metric's value as JSON holds it: numbers, nested lists, texts; NaN and infinity, which JSON has not, are None.

    Args:
        value: A number, a text, a tensor or an array of any shape, or lists, tuples and dictionaries of such.
    """
    if isinstance(value, Mapping):
        return {str(key): metric_json(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [metric_json(one) for one in value]
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        return metric_json(value.tolist())
    if isinstance(value, (bool, int, float)):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, str) else str(value)


def data_variant(cfg: Config) -> str | None:
    """Which data a run is of, ``embedded``, ``files``, ``jpeg``, ...: what the data set's config says.

    A config of a user's own may leave it out: its results name none, and stay out of leaderboards.

    Raises:
        UserError: A suite's config, or one of a recipe, says nothing.
    """
    stated = cfg.get("data_variant")
    if stated is None and (cfg.get("suite") or cfg.get("methods_table")):
        raise UserError(
            f"config {cfg.filename} does not say which data it reads: set data_variant='files' (or 'embedded', 'jpeg', "
            "...) beside data_root."
        )
    return stated


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def result_summary(result: dict[str, Any], work_dir: str) -> str:
    """A result in a few lines: accuracy, trained parameters without head, PPT, and where the files are."""
    metric = result["main_metric"]
    lines = [f"{', '.join(m['type'] for m in result['methods'])} on {result['task'] or result['config']}"]
    if metric is not None:
        value = "no finite number" if metric["value"] is None else f"{100 * metric['value']:.2f} %"
        lines.append(f"  {metric['name']:<27} {value}")
    else:
        lines.append("  the evaluator gave no figure: the model finds nothing")
    lines += [f"  {line}" for line in class_lines(result.get("per_class"))]
    lines.append(f"  trainable without head      {result['parameters']['trainable_without_head']:,}")
    if (stored := result["parameters"].get("stored_bytes")) is not None:
        lines.append(f"  stored without head         {stored:,} bytes")
    if result["ppt"] is not None:
        lines.append(f"  PPT                         {result['ppt']:.3f}")
    lines.append(f"  tested file                 {result['checkpoint']} ({result['checkpoint_bytes']:,} bytes)")
    lines.append(f"  result, logs, checkpoints   {work_dir}")
    return "\n".join(lines)
