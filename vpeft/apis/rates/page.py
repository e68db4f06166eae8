"""The page of rates: the setting of every method and host, what it follows from, and where it cannot be trusted."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from vpeft.apis.pages.table import markdown_row
from vpeft.apis.rates.evidence import FixedSetting, RateTrial, choose


def rate_settings(trials: Sequence[RateTrial], tasks: Mapping[str, Sequence[str]]) -> list[FixedSetting]:
    """The setting of every method and host among trials.

    Args:
        trials: Any.
        tasks: What each host is searched on (:func:`~vpeft.apis.rates.evidence.searched_tasks`).
    """
    groups: dict[tuple[str, str], list[RateTrial]] = {}
    for trial in trials:
        groups.setdefault((trial.host, trial.method), []).append(trial)
    found = []
    for (host, _), own in sorted(groups.items()):
        setting = choose(own, tasks.get(host, ()))
        if setting is not None:
            found.append(setting)
    return found


def rate_faults(settings: Sequence[FixedSetting]) -> list[str]:
    """What is wrong with settings: a best rate at an end of its range, and unequal numbers of trials."""
    faults = [
        f"{s.method} on {s.host}: the {s.at_end} of the rates that were tried, {s.rate:g}, is the best: widen the "
        "range that the method declares, and search again"
        for s in settings
        if s.at_end
    ]
    for host in dict.fromkeys(s.host for s in settings):
        counts: dict[int, list[str]] = {}
        for s in settings:
            if s.host == host:
                counts.setdefault(s.trials, []).append(s.method)
        if len(counts) > 1:
            said = "; ".join(f"{n} of {', '.join(names)}" for n, names in sorted(counts.items()))
            faults.append(f"{host}: methods had unequal numbers of trials on a task: {said}")
    return faults


def rates_page(trials: Sequence[RateTrial], tasks: Mapping[str, Sequence[str]], source: str) -> str:
    """The page, as Markdown.

    Args:
        trials: All of a file of evidence.
        tasks: As of :func:`rate_settings`.
        source: The file, as it is to be called.
    """
    settings = rate_settings(trials, tasks)
    lines = [
        "# Rates and sizes",
        "",
        f"Written by `vpeft rates` from `{source}`, which has a line a trial; do not edit by hand.",
        "",
        "Every method has the same number of trials on a task. Trials train on the images for tuning and look once, at",
        "the end, at those of validation; no test image is read. First come rates from end to end of the range that",
        "the method declares, at the table's size; then rates beside the best; then other sizes at the best",
        "rate, or rates between. The best mean over tasks is the setting; of equal ones the smaller rate, then the",
        "smaller size. A rate at an end of its range is a fault; a size is not, since a larger one costs parameters.",
        "",
        "What was not run is not here. A setting with all tasks of its host is what the configs of this method have;",
        "one that lacks tasks is partial: it is shown, and the configs keep the table's own. A config that is a file",
        "of its own says its rate itself.",
        "",
    ]
    faults = rate_faults(settings)
    said = ["Faults:", "", *(f"- {fault}" for fault in faults)] if faults else ["No rate lies at an end of its range."]
    lines += [*said, ""]
    for host in dict.fromkeys(s.host for s in settings):
        lines += _host(host, [s for s in settings if s.host == host], [t for t in trials if t.host == host])
    return "\n".join(lines).rstrip() + "\n"


def _host(host: str, settings: Sequence[FixedSetting], trials: Sequence[RateTrial]) -> list[str]:
    tasks = list(dict.fromkeys(task for s in settings for task in s.values))
    lines = [f"## {host}", "", "Main metric on the validation images, in percent.", ""]
    lines += [markdown_row("method", "rate", "size", *tasks, "mean", "trials", "commit", "used")]
    lines += [f"|---|---:|---|{'---:|' * (len(tasks) + 2)}---|---|"]
    for s in sorted(settings, key=lambda s: (-len(s.values), -s.mean, s.method)):
        values = [f"{100 * s.values[task]:.1f}" if task in s.values else "" for task in tasks]
        used = "yes" if not s.lacking else f"no: partial, without {', '.join(s.lacking)}"
        row = [s.method, f"{s.rate:g}", s.size, *values, f"**{100 * s.mean:.1f}**", str(s.trials), ", ".join(s.commits)]
        lines.append(markdown_row(*row, used))
    failed = Counter(t.method for t in trials if t.validation is None)
    said = ", ".join(f"{number} of {method}" for method, number in sorted(failed.items()))
    return [*lines, "", *([f"Trials that failed: {said}.", ""] if failed else []), *_curves(settings, trials), ""]


def _curves(settings: Sequence[FixedSetting], trials: Sequence[RateTrial]) -> list[str]:
    """Means by rate at the size that was tried at most of them."""
    lines = ["By rate, the mean over the same tasks, at the size that most rates were tried with:", ""]
    lines += [markdown_row("method", "size", "rate: mean"), "|---|---|---|"]
    for s in settings:
        size, curve = _curve([t for t in trials if t.method == s.method], len(s.values))
        best = max(curve.values(), default=0)
        cells = [_bold(f"{rate:g}: {100 * mean:.1f}", mean == best) for rate, mean in sorted(curve.items())]
        lines.append(markdown_row(s.method, size, ", ".join(cells)))
    return lines


def _bold(text: str, best: bool) -> str:
    return f"**{text}**" if best else text


def _curve(trials: Sequence[RateTrial], tasks: int) -> tuple[str, dict[float, float]]:
    sizes: dict[str, dict[float, list[float]]] = {}
    for t in trials:
        if t.validation is not None:
            sizes.setdefault(t.size, {}).setdefault(t.rate, []).append(t.validation)
    if not sizes:
        return "", {}
    size = max(sizes, key=lambda one: len(sizes[one]))
    return size, {rate: statistics.mean(v) for rate, v in sizes[size].items() if len(v) == tasks}
