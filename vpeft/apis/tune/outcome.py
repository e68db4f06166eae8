"""How trials ended, in words and pictures."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from vpeft.files import write_atomically


def trial_words(keys: Mapping[str, str], outcome: Mapping[str, Any]) -> str:
    """The values of a trial, and what it came to.

    Args:
        keys: The config's key of each name that is searched.
        outcome: As :meth:`~vpeft.apis.tune.trial.TrialJob.outcome` gives it.
    """
    value = outcome.get("value")
    came = "failed" if value is None else f"{100 * value:.2f} %"
    if outcome["state"] == "pruned":
        came += ", given up"
    return f"{values_words(keys, outcome['options'])}  {came}"


def values_words(keys: Mapping[str, str], options: Mapping[str, Any]) -> str:
    """The values of what is searched among a trial's options."""
    return "  ".join(f"{name} {short(options[key])}" for name, key in keys.items())


def short(value: Any) -> str:
    """A value in a few signs."""
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
