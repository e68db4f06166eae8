"""What a search shows: what it goes through, how each trial ended, and what it found."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import TrialState

from vpeft.core.contract.search_space import Range
from vpeft.files import write_atomically

if TYPE_CHECKING:
    from vpeft.apis.tune.study import Study
    from vpeft.apis.tune.trial import TrialJob

#: How a trial may have ended that has a value all the same.
_GIVEN_UP = "pruned"


def search_lines(study: Study, slots: int | None = None) -> list[str]:
    """What a search goes through, before it begins.

    Args:
        study: The search.
        slots: Trials at once, where that is known.
    """
    how = "all combinations" if study.grid else "the first is the config as it is"
    at_once = f", {slots} at a time" if slots else ""
    lines = [f"searched   {Path(study.config).name}, {study.task}: {study.trials} trials{at_once}; {how}"]
    for name, values in study.space.items():
        said = f"{values.low:g} to {values.high:g}" if isinstance(values, Range) else ", ".join(map(_short, values))
        lines.append(f"           {name}: {said}")
    return [*lines, "judged     on the validation images; the test images are not read", f"folder     {study.folder}"]


def trial_words(study: Study, job: TrialJob) -> str:
    """The values of a trial, and what it came to."""
    outcome = job.outcome()
    value = outcome.get("value")
    came = "failed" if value is None else f"{100 * value:.2f} %"
    if outcome["state"] == _GIVEN_UP:
        came += ", given up"
    return f"{_values(study, job.options)}  {came}"


def found_lines(study: Study, best: Mapping[str, Any]) -> list[str]:
    """What a search found.

    Args:
        study: The search.
        best: ``options`` and ``tuning``, as :func:`~vpeft.apis.tune.study.tune` gives them.
    """
    tuning = best["tuning"]
    start = tuning["start_value"]
    beside = "" if start is None else f"; the config as it is: {100 * start:.2f} %"
    counts = f"{tuning['complete']} complete, {tuning['pruned']} given up, {tuning['fail']} failed"
    return [
        f"best       trial {tuning['best_trial']}: {_values(study, best['options'])}  "
        f"{100 * tuning['best_value']:.2f} % on the validation images{beside}",
        f"trials     {counts}",
    ]


def _values(study: Study, options: Mapping[str, Any]) -> str:
    return "  ".join(f"{name} {_short(options[study.key(name)])}" for name in study.space)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def plots(found: optuna.Study, folder: Path) -> None:
    """Draw ``history.png`` (all trials) and ``importance.png`` (what the value depends on, from four trials on)."""
    import warnings

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as draw

    complete = [t for t in found.trials if t.state == TrialState.COMPLETE]
    drawn = {"history": draw.plot_optimization_history}
    if len(complete) >= 4 and len({t.value for t in complete}) > 1:
        drawn["importance"] = draw.plot_param_importances
    for name, plot in drawn.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            figure = plot(found).figure
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=120, bbox_inches="tight")
        write_atomically(folder / f"{name}.png", buffer.getvalue())
        pyplot.close(figure)
