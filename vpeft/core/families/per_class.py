"""The figure of every class, beside the one that an evaluation ends in."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

#: Name of a figure, and its value in [0, 1] for each class, NaN for one that does not occur.
Figures = tuple[str, Sequence[float]]
#: Predicted and wanted label of every sample.
Answers = tuple[list[int], list[int]]
Compute = Callable[[Sequence[Any]], dict[str, Any]]
#: Lets a metric compute of its collected samples; gives what it has computed, and the figures, None where it has none.
Reader = Callable[[Any, Compute, Sequence[Any]], tuple[dict[str, Any], Figures | None]]


class ClassFigures:
    """Figures of the classes, gathered while the metrics of an evaluator compute theirs.

    Args:
        metrics: Of an evaluator. Those whose samples are known are read: of mmpretrain ``Accuracy`` and
            ``AveragePrecision``, of mmaction ``AccMetric``, of mmseg ``IoUMetric``, of mmdet ``CocoMetric`` and
            ``VOCMetric``, and what is derived of them.
    """

    def __init__(self, metrics: Sequence[Any]) -> None:
        self._found: dict[str, Any] | None = None
        self._right: list[bool] | None = None
        for metric in metrics:
            reader = next((READERS[c.__name__] for c in type(metric).__mro__ if c.__name__ in READERS), None)
            if reader is not None:
                metric.compute_metrics = functools.partial(self._computed, metric, reader, metric.compute_metrics)

    def _computed(self, metric: Any, reader: Reader, compute: Compute, results: Sequence[Any]) -> dict[str, Any]:
        computed, figures = reader(metric, compute, results)
        names = _names(metric)
        answers = next((ANSWERS[c.__name__] for c in type(metric).__mro__ if c.__name__ in ANSWERS), None)
        if answers is not None and (both := answers(results)) is not None:
            self._right = [answer == wanted for answer, wanted in zip(*both, strict=True)]
        if figures is not None and len(names) == len(figures[1]) > 0:
            values = [round(float(value), 6) if math.isfinite(value) else None for value in figures[1]]
            self._found = {"name": figures[0], "values": dict(zip(names, values, strict=True))}
        return computed

    def found(self) -> dict[str, Any] | None:
        """``name`` of the figure and ``values`` in [0, 1] by class, None for one that does not occur in the data; None
        where the data name no classes, or no metric was read.
        """
        return self._found

    def right(self) -> list[bool] | None:
        """Whether each sample was answered rightly, in the order of the data; None where none has one label."""
        return self._right


def class_lines(found: Mapping[str, Any] | None, most: int = 20) -> list[str]:
    """A table of :meth:`ClassFigures.found`, the lowest first.

    Args:
        found: The figures; no line for None.
        most: Lines at most; the highest are left out, which is said.
    """
    if not found:
        return []
    rows = sorted(found["values"].items(), key=lambda row: (row[1] is None, row[1], row[0]))
    shown = rows[:most]
    width = max(len("class"), *(len(name) for name, _ in shown))
    lines = [f"{'class':<{width}}  {found['name']:>8}"]
    lines += [f"{name:<{width}}  {'none' if value is None else f'{100 * value:.2f} %':>8}" for name, value in shown]
    if rows[most:]:
        lines.append(f"... and {len(rows) - most} classes above, in result.json")
    return lines


def _names(metric: Any) -> list[str]:
    return [str(name) for name in (metric.dataset_meta or {}).get("classes") or ()]


def _of_samples(read: Callable[[Any, Sequence[Any]], Figures | None]) -> Reader:
    return lambda metric, compute, results: (compute(results), read(metric, results))


def _shares(right: np.ndarray, of: np.ndarray) -> list[float]:
    return [a / b if b else math.nan for a, b in zip(right.tolist(), of.tolist(), strict=True)]


def _accuracy(metric: Any, predicted: Sequence[int], wanted: Sequence[int]) -> Figures | None:
    predicted, wanted, classes = np.asarray(predicted), np.asarray(wanted), len(_names(metric))
    if not all(0 <= label < classes for label in wanted):
        return None  # the data name other classes than they have, or none
    right = np.bincount(wanted[predicted == wanted], minlength=classes)
    return "accuracy", _shares(right, np.bincount(wanted, minlength=classes))


def _answers_on_images(results: Sequence[Any]) -> Answers | None:
    if any(one["gt_label"].numel() != 1 for one in results):
        return None
    predicted = [int(one["pred_score"].argmax()) if "pred_score" in one else int(one["pred_label"]) for one in results]
    return predicted, [int(one["gt_label"]) for one in results]


def _images(metric: Any, results: Sequence[Any]) -> Figures | None:
    answers = _answers_on_images(results)
    return None if answers is None else _accuracy(metric, *answers)


def _several_labels(metric: Any, results: Sequence[Any]) -> Figures:
    target, scores = (torch.stack([one[key] for one in results]) for key in ("gt_score", "pred_score"))
    figures = metric.calculate(scores, target, None) / 100
    return "AP", figures.masked_fill(~(target > 0).any(0), math.nan).tolist()


def _answers_on_clips(results: Sequence[Any]) -> Answers | None:
    if any(len(one["pred"]) != 1 or not isinstance(one["label"], int) for one in results):
        return None  # several heads, or several labels
    predicted = [int(next(iter(one["pred"].values())).argmax()) for one in results]
    return predicted, [one["label"] for one in results]


def _clips(metric: Any, results: Sequence[Any]) -> Figures | None:
    answers = _answers_on_clips(results)
    return None if answers is None else _accuracy(metric, *answers)


def _regions(metric: Any, results: Sequence[Any]) -> Figures | None:
    if metric.format_only:
        return None
    both, either = (sum(one[place] for one in results).numpy() for place in (0, 1))
    return "IoU", _shares(both, either)


def _boxes(metric: Any, compute: Compute, results: Sequence[Any]) -> tuple[dict[str, Any], Figures | None]:
    """mmdet's own sums by class, which stand among its figures; where masks are asked for too, those of masks."""
    asked, metric.classwise = metric.classwise, True
    try:
        computed = compute(results)
    finally:
        metric.classwise = asked
    keys = [f"{name}_precision" for name in _names(metric)]
    if not all(key in computed for key in keys):
        return computed, None
    figures = [float(computed[key]) for key in keys]
    kept = computed if asked else {key: value for key, value in computed.items() if key not in keys}
    return kept, ("mask AP" if "segm" in metric.metrics else "box AP", figures)


def _boxes_of_voc(metric: Any, compute: Compute, results: Sequence[Any]) -> tuple[dict[str, Any], Figures | None]:
    """mmdet makes a table of the classes on its way, and gives none of it back."""
    module = sys.modules[compute.__func__.__module__]
    evaluate, tables = module.eval_map, []

    def kept(*args: Any, **kwargs: Any) -> Any:
        mean, table = evaluate(*args, **kwargs)
        tables.append(table)
        return mean, table

    module.eval_map = kept
    try:
        computed = compute(results)
    finally:
        module.eval_map = evaluate
    if not tables or metric.scale_ranges is not None:
        return computed, None
    figures = np.mean([[one["ap"] if one["num_gts"] else math.nan for one in table] for table in tables], axis=0)
    return computed, ("box AP", figures.tolist())


#: By the metric's name, those of one label a sample.
ANSWERS: dict[str, Callable[[Sequence[Any]], Answers | None]] = {
    "Accuracy": _answers_on_images,
    "AccMetric": _answers_on_clips,
}
#: By the metric's name.
READERS: dict[str, Reader] = {
    "Accuracy": _of_samples(_images),
    "AveragePrecision": _of_samples(_several_labels),
    "AccMetric": _of_samples(_clips),
    "IoUMetric": _of_samples(_regions),
    "CocoMetric": _boxes,
    "VOCMetric": _boxes_of_voc,
}
