"""Figures of results: Pareto fronts, accuracy over size, accuracy over shots."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vpeft.apis.results.files import Results, row_name, row_names, settings, shared_settings
from vpeft.apis.results.statistics import Line, all_tasks, lines, pareto
from vpeft.errors import UserError, printable
from vpeft.files import write_atomically

#: What accuracy is set against, with the axis' label.
AXES: dict[str, tuple[str, Callable[[Line], float | None]]] = {
    "parameters": ("trained parameters without the head", lambda line: line.parameters),
    "step_ratio": ("time of a training step / reference", lambda line: line.cost["step_ratio"]),
    "step_seconds": ("seconds of an iteration in training", lambda line: line.cost["step_seconds"]),
    "saved_bytes": ("saved for the backward pass, bytes", lambda line: line.cost["saved_bytes"]),
    "peak_bytes": ("peak with gradients and optimiser, bytes", lambda line: line.cost["peak_bytes"]),
}


def front(found: Sequence[Line], cost: str) -> list[Line]:
    """The lines that none beats in mean accuracy and cost both, by rising cost; those without the cost are left out."""
    known = [line for line in found if AXES[cost][1](line) is not None]
    return [known[i] for i in pareto([(line.mean, AXES[cost][1](line)) for line in known])]


def draw_all(results: Results, folder: str | os.PathLike[str]) -> list[Path]:
    """Draw what the results allow: ``pareto_<cost>.png`` of the costs that are known, and of sweeps ``over_shots.png``
    and ``over_parameters.png``.

    Raises:
        UserError: There is no row with all tasks.
    """
    found = lines(results)
    if not found:
        raise UserError(f"{results.root}: no row has a result of every task: nothing to draw.")
    known = [cost for cost, (_, value) in AXES.items() if any(value(line) is not None for line in found)]
    drawn = [pareto_plot(found, cost, Path(folder) / f"pareto_{cost}.png") for cost in known]
    curves = size_curves(results)
    for axis in ("shots", "parameters"):
        if any(len(points) > 1 for points in curves[axis].values()):
            drawn.append(curve_plot(curves[axis], axis, len(all_tasks(results)), Path(folder) / f"over_{axis}.png"))
    return drawn


def size_curves(results: Results) -> dict[str, dict[str, list[tuple[float, float, float]]]]:
    """Points (size, mean accuracy, standard deviation over seeds) of each curve, for the axes ``shots`` and
    ``parameters``. A curve over shots is of a method of one size, one over parameters of a method with as many shots.
    """
    axes: dict[str, dict[str, list[tuple[float, float, float]]]] = {"shots": {}, "parameters": {}}
    found = lines(results)
    rows = [line.row for line in found]
    common = shared_settings(rows)
    for line in found:
        variant = _variant(line, results)
        shots = variant.pop("shots", None)
        point = (line.mean, line.std or 0.0)
        size = ", ".join(one for one in settings(variant) if one not in common)
        if shots is not None:
            axes["shots"].setdefault(row_name((line.row[0], line.row[1], size), rows), []).append((shots, *point))
        images = "" if shots is None else f"shots={shots}"
        axes["parameters"].setdefault(row_name((line.row[0], line.row[1], images), rows), []).append(
            (line.parameters, *point)
        )
    return {axis: {name: sorted(points) for name, points in curves.items()} for axis, curves in axes.items()}


def _variant(line: Line, results: Results) -> dict[str, Any]:
    cell = next(iter(line.cells.values()))
    return dict(results.runs[next(iter(cell.runs.values()))]["variant"])


def pareto_plot(found: Sequence[Line], cost: str, path: Path) -> Path:
    """Mean accuracy against a cost, the front joined by a line."""
    from vpeft.extension.drawing.plots import COLOURS

    pyplot = _pyplot()
    label, of = AXES[cost]
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    shown = [line for line in found if of(line) is not None]
    best = front(found, cost)
    axes.scatter([of(line) for line in shown], [100 * line.mean for line in shown], s=18, color="0.55")
    axes.plot([of(line) for line in best], [100 * line.mean for line in best], "o-", color=COLOURS[1], ms=5, lw=1.2)
    names = row_names((line.row for line in best), [line.row for line in found])
    for line in best:
        name = _label(names[line.row])
        axes.annotate(name, (of(line), 100 * line.mean), xytext=(4, 4), textcoords="offset points", fontsize=7)
    if shown and max(map(of, shown)) > 0:
        axes.set_xscale("symlog", linthresh=min(of(line) for line in shown if of(line) > 0))
    tasks = len(found[0].cells) if found else 0
    axes.set(xlabel=label, ylabel=f"accuracy in percent, mean of {tasks} tasks")
    return _save(figure, path)


def curve_plot(curves: dict[str, list[tuple[float, float, float]]], axis: str, tasks: int, path: Path) -> Path:
    """Accuracy over shots or parameters, a line per curve, bars of one standard deviation over seeds."""
    from vpeft.extension.drawing.plots import COLOURS, MARKERS

    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(8.5, 4.5))
    # As in the legend: the highest end first. A method has a colour, each of its curves a marker and dashes.
    order = sorted(curves.items(), key=lambda item: -item[1][-1][1])
    methods: dict[str, list[str]] = {}
    for name in curves:
        methods.setdefault(name.split(" (")[0], []).append(name)
    for name, points in order:
        x, mean, std = zip(*points, strict=True)
        method = name.split(" (")[0]
        number, place = list(methods).index(method), methods[method].index(name)
        style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)], "ms": 4, "lw": 1.2}
        style["ls"] = ("-", "--", "-.", ":")[(place + number // len(COLOURS)) % 4]
        axes.errorbar(x, [100 * m for m in mean], [100 * s for s in std], capsize=2, label=_label(name), **style)
    sizes = sorted({point[0] for points in curves.values() for point in points})
    if sizes[0] > 0:
        axes.set_xscale("log")
    else:
        axes.set_xscale("symlog", linthresh=next((size for size in sizes if size > 0), 1))
    if axis == "shots":
        axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
        axes.minorticks_off()
    labels = {"shots": "training images of each class", "parameters": AXES["parameters"][0]}
    axes.set(xlabel=labels[axis], ylabel=f"accuracy in percent, mean of {tasks} tasks")
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    return _save(figure, path)


def _label(name: str) -> str:
    """A name in a figure: a dollar is no formula, and a legend leaves out what begins with an underscore."""
    name = printable(name).replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> Path:
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140)
    _pyplot().close(figure)
    return write_atomically(path, buffer.getvalue())
