"""The page of ``benchmarks/all.py`` as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vpeft.apis.results.shown import markdown_text, table_line

#: What a figure may have besides its value: heading and how it is written.
COLUMNS = {
    "ratio": ("x floor", "{:.3f}"),
    "saved": ("saved bytes, x floor", "{:.3f}"),
    "peak": ("peak bytes, x floor", "{:.3f}"),
    "bound": ("at most", "{:.2f}"),
    "numbers": ("a token", "{:,.0f}"),
    "block": ("a block", "{:,.0f}"),
    "milliseconds": ("ms", "{:,.1f}"),
    "peak_mib": ("peak MiB", "{:,.1f}"),
    "megabytes": ("MB an image", "{:.3f}"),
    "compiling": ("s to compile", "{:.1f}"),
    "seconds": ("s", "{:.2f}"),
    "processor": ("s of the processor", "{:.2f}"),
    "opened": ("files opened", "{:,}"),
    "looks": ("looks", "{:,}"),
    "opened_times": ("x files opened", "{:.2f}"),
    "looks_times": ("x looks", "{:.2f}"),
    "note": ("", "{}"),
}


def page_markdown(page: Mapping[str, Any]) -> str:
    """The page: on what it was measured, a table for each part, what was not run and why."""
    settings, machine, versions = page["settings"], page["machine"], page["versions"]
    packages = ", ".join(f"{name} {number}" for name, number in versions.items())
    text = [f"# What it costs: {settings['mode']}, {settings['device']}", ""]
    text += [f"`{page['command']}`, {page['date']}, commit {page['git'] or 'unknown'}. {machine['device']}, "]
    text[-1] += f"{machine['cores']} cores, {machine['threads']} threads, load {machine['load'] or 0:.1f} at the end; "
    text[-1] += f"{packages}; {settings['rounds']} rounds. Ratios (x) are medians of the ratios within each round."
    if settings["mode"] == "quick":
        text += ["", "Tiny models: this says that everything runs. Times of so little work say nothing of larger ones."]
    for part in page["parts"]:
        text += ["", f"## {part['title']}", ""]
        if "figures" in part:
            text += [part_table([row for row in part["figures"] if "value" in row])]
            text += [f"- {row['what']}: {markdown_text(row['refused'])}" for row in part["figures"] if "refused" in row]
        else:
            text += [f"not run: {markdown_text(part['not_run'])}" if "not_run" in part else ""]
            text[-1] = text[-1] or f"failed: {markdown_text(part['failed'])}"
    text += ["", "## The whole VTAB-1k table", "", *_estimate(page["table"])]
    return "\n".join(text) + "\n"


def part_table(figures: Sequence[Mapping[str, Any]]) -> str:
    """A part's figures as a table, with the columns that any of them has."""
    used = {key: how for key, how in COLUMNS.items() if any(row.get(key) is not None for row in figures)}
    spread = any("q1" in row for row in figures)
    head = ["", "figure", *(["q1 - q3"] if spread else []), *(title for title, _ in used.values())]
    lines = [table_line(head), "|---" + "|---:" * (len(head) - 1) + "|"]
    for row in figures:
        cells = [markdown_text(row["what"]), f"{_number(row['value'])} {row['unit']}".strip()]
        if spread:
            cells += [f"{_number(row['q1'])} - {_number(row['q3'])}" if "q1" in row else ""]
        cells += ["" if row.get(key) is None else how.format(row[key]) for key, (_, how) in used.items()]
        lines.append(table_line(cells))
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.3f}"


def _estimate(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return ["not estimated: it follows from images a second (`throughput`)."]
    found = []
    for row in rows:
        hours = {name: row[name] / 3600 for name in ("seconds", "training", "testing", "starting")}
        text = f"- Batch {row['batch']}: {row['runs']:,} runs of 100 epochs, one after the other on this device, "
        text += f"{hours['seconds']:.1f} hours: training {hours['training']:.1f}, testing {hours['testing']:.1f}, "
        text += (
            f"starting {hours['starting']:.1f} ({row['start']:.1f} s a run{'' if row['start'] else ', not measured'})."
        )
        text += f" Not measured, so not in it: {', '.join(row['lacking'])}." if row["lacking"] else ""
        found.append(text)
    return found
