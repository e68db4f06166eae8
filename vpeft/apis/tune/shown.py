"""What a search shows before it begins and at its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vpeft.apis.tune.outcome import short, values_words
from vpeft.apis.tune.study import Study
from vpeft.core.contract.search_space import Range


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
        said = f"{values.low:g} to {values.high:g}" if isinstance(values, Range) else ", ".join(map(short, values))
        lines.append(f"           {name}: {said}")
    return [*lines, "judged     on the validation images; the test images are not read", f"folder     {study.folder}"]


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
    ends = [
        f"at an end  {name}: a better value may lie beyond what was searched: search further with --space or --grid"
        for name in tuning["at_end"]
    ]
    return [
        f"best       trial {tuning['best_trial']}: {values_words(study.keys(), best['options'])}  "
        f"{100 * tuning['best_value']:.2f} % on the validation images{beside}",
        f"trials     {counts}",
        *ends,
    ]
