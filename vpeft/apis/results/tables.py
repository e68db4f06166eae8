"""Results as text: Markdown, CSV, JSON, lists of runs, comparisons."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable
from typing import Any

from vpeft.apis.results.costs import COSTS, costs_of
from vpeft.apis.results.files import Results, Row, cells, row_name, row_names, row_of, shared_settings
from vpeft.apis.results.intervals import deviation
from vpeft.apis.results.shown import csv_text, markdown_text, spread_text, table_line
from vpeft.apis.results.statistics import Comparison, all_tasks, compare, lines
from vpeft.errors import UserError, one_line, printable
from vpeft.registry import nearest


def kept(results: Results, everything: bool) -> Results:
    """The runs that a table shows: those that followed the protocol, or all that did not fail."""
    return results.ok() if everything else results.honest()


def suites(results: Results) -> dict[str, Results]:
    """Results that belong into one table: those of a suite, or of a task that is of none."""
    found: dict[str, Results] = {}
    for path, r in results.runs.items():
        found.setdefault(r["suite"] or r["task"], Results(results.root, broken=results.broken)).runs[path] = r
    return found


def markdown(results: Results, everything: bool = False) -> str:
    """A table per suite, with a line per row: the mean over seeds of each task in percent, both averages, PPT; what is
    missing below.
    """
    shown = {name: kept(part, everything) for name, part in suites(results).items()}
    tables = [_table(part) for part in shown.values() if part.runs]
    return "\n".join([*tables, *_notes(results, shown, everything)])


def _table(shown: Results) -> str:
    tasks, found = all_tasks(shown), lines(shown)
    rows = [line.row for line in found]
    names = row_names(rows, rows)
    grouped = any(line.mean_of_groups is not None for line in found)
    head = ["method", "parameters", *map(markdown_text, tasks)]
    head += [f"mean of {len(tasks)} tasks", *(["mean of groups"] if grouped else []), "PPT", "seeds"]
    text = [table_line(head), "|---" + "|---:" * (len(head) - 1) + "|"]
    for line in found:
        cell = [percent(statistics.fmean(line.cells[t].values.values())) for t in tasks]
        spread = markdown_text(spread_text(line.std, line.spread if len(line.cells) > 1 else None))
        seeds = min(len(cell.values) for cell in line.cells.values())
        row = [
            markdown_text(names[line.row]),
            f"{line.parameters:,.0f}",
            *cell,
            f"**{percent(line.mean)}**{spread}",
        ]
        row += [percent(line.mean_of_groups)] if grouped else []
        text.append(table_line([*row, f"{line.ppt:.3f}", seeds]))
    text += ["", f"All rows with {markdown_text(', '.join(common))}."] if (common := shared_settings(rows)) else []
    return "\n".join(text) + "\n"


def percent(value: float) -> str:
    """A share as percent with one decimal."""
    return f"{100 * value:.1f}"


def _notes(results: Results, shown: dict[str, Results], everything: bool) -> list[str]:
    """What the tables leave out, and why."""
    notes, older = [], 0
    for part in shown.values():
        table, tasks = cells(part), set(all_tasks(part))
        lacking = {row: sorted(tasks - set(by_task)) for row, by_task in table.items() if tasks - set(by_task)}
        names = row_names(lacking, table)
        notes += [f"- {names[row]}: no run of {', '.join(without)}" for row, without in lacking.items()]
        older += sum(len(cell.older) for by_task in table.values() for cell in by_task.values())
    failed = [r for r in results.runs.values() if r["status"] == "failed"]
    notes += [f"- failed: {r['config']} on {r['task']}, seed {r['seed']}: {_last(r['error'])}" for r in failed]
    off: dict[str, int] = {}
    for r in results.ok().runs.values() if not everything else ():
        for fault in r["protocol"]["faults"]:
            off[fault] = off.get(fault, 0) + 1
    notes += [f"- left out, {number} runs off the protocol: {fault}" for fault, number in off.items()]
    notes += [f"- left out, {older} runs of settings that were changed since"] if older else []
    notes += [f"- left out: {fault}" for fault in results.broken]
    return ["Left out:", "", *(f"- {markdown_text(note.removeprefix('- '))}" for note in notes), ""] if notes else []


def _last(error: str) -> str:
    return one_line((error.strip().splitlines() or [""])[-1], 300)


#: Columns of the CSV of runs.
COLUMNS: dict[str, Callable[[dict[str, Any]], Any]] = {
    **{n: (lambda r, n=n: r[n]) for n in ("method", "backbone", "task", "group", "suite", "seed", "status", "config")},
    "variant": lambda r: json.dumps(r["variant"], sort_keys=True) if r["variant"] else "",
    "metric": lambda r: r.get("main_metric", {}).get("name"),
    "value": lambda r: r.get("main_metric", {}).get("value"),
    "parameters": lambda r: r.get("parameters", {}).get("trainable_without_head"),
    "ppt": lambda r: r.get("ppt"),
    **{name: (lambda r, name=name: costs_of(r)[name]) for name in COSTS},
    "train_seconds": lambda r: r.get("cost", {}).get("train_seconds"),
    "tuned": lambda r: (r.get("tuning") or {}).get("trials"),
    "faults": lambda r: "; ".join(r.get("protocol", {}).get("faults", [])),
    "data_variant": lambda r: r.get("data_variant"),
    "git": lambda r: r.get("git"),
    "code": lambda r: r.get("code"),
    "hash": lambda r: r["hash"],
}


def as_csv(results: Results, everything: bool = False) -> str:
    """A line per run, failed ones too, with the file that it is from."""
    runs = results if everything else results.where(lambda r: r["status"] == "failed" or not r["protocol"]["faults"])
    rows = [
        [*(column(result) for column in COLUMNS.values()), str(path.relative_to(results.root))]
        for path, result in runs.runs.items()
    ]
    return csv_text([*COLUMNS, "file"], rows).rstrip("\n")


def as_json(results: Results, everything: bool = False) -> str:
    """The table's lines with their cells' files."""
    table = []
    for line in lines(kept(results, everything)):
        entry = {
            "method": line.row[0],
            "backbone": line.row[1],
            "variant": line.row[2],
            "mean_of_tasks": line.mean,
            "std_over_seeds": line.std,
            "std_over_seeds_pooled": line.spread,
            "group_means": line.group_means,
            "mean_of_groups": line.mean_of_groups,
            "parameters": line.parameters,
            "ppt": line.ppt,
            "cost": line.cost,
            "tasks": {
                task: {
                    "values": {str(seed): value for seed, value in cell.values.items()},
                    "runs": [str(path.relative_to(results.root)) for path in cell.runs.values()],
                }
                for task, cell in line.cells.items()
            },
        }
        table.append(entry)
    return json.dumps(table, indent=2)


def as_list(results: Results, everything: bool = False) -> str:
    """A line per run: its names, its value or its error, the file."""
    text = []
    for path, r in results.runs.items():
        faults = r.get("protocol", {}).get("faults", [])
        if faults and not everything:
            continue
        shown = f"{percent(r['main_metric']['value'])} %" if r["status"] == "ok" else f"FAILED: {_last(r['error'])}"
        mark = f" [off the protocol: {'; '.join(faults)}]" if faults else ""
        name = row_name(row_of(r), ())
        text.append(printable(f"{name} | {r['backbone']} | {r['task']} | seed {r['seed']} | {shown}{mark} | {path}"))
    return "\n".join(text)


def cell_runs(results: Results, method: str, task: str) -> str:
    """Exactly which runs a cell is made of, and which it leaves out.

    Raises:
        UserError: There is no such row or task; the message names the nearest.
    """
    table = cells(results.honest())
    rows = find_rows(table, method)
    text = []
    for row in rows:
        if task not in table[row]:
            raise UserError(f"{method} has no run of task {task!r}: {nearest(task, table[row])}")
        cell = table[row][task]
        values = list(cell.values.values())
        spread = f" ± {percent(deviation(values))}" if len(values) > 1 else ""
        text.append(f"{row_name(row, table)} on {task}: {percent(statistics.fmean(values))}{spread} from")
        text += [f"  seed {seed}: {100 * cell.values[seed]:.2f}  {path}" for seed, path in cell.runs.items()]
        text += [f"  left out, of a setting that was changed since: {path}" for path in cell.older]
        for path, r in results.runs.items():
            if (r["method"], r["backbone"], r["task"]) == (*row[:2], task) and path not in (
                *cell.runs.values(),
                *cell.older,
            ):
                why = "failed" if r["status"] == "failed" else "; ".join(r["protocol"]["faults"])
                if why:
                    text.append(f"  left out, {why}: {path}")
    return "\n".join(map(printable, text))


def find_rows(table: Iterable[Row], name: str) -> list[Row]:
    """Rows by method or by their whole name.

    Raises:
        UserError: There is none; the message names the nearest.
    """
    table = list(table)
    names = row_names(table, table)
    found = [row for row in table if name in (row[0], names[row], row_name(row, [row]))]
    if not found:
        raise UserError(f"no row {name!r}: {nearest(name, set(names.values()))}")
    return found


def comparison(results: Results, everything: bool, a: str, b: str) -> str:
    """Two rows on the same tasks and seeds."""
    shown = kept(results, everything)
    table = cells(shown)
    (first, *more), (second, *others) = find_rows(table, a), find_rows(table, b)
    if more or others:
        names = [row_name(row, table) for row in (first, *more, second, *others)]
        raise UserError(f"several rows of that name: give one of {', '.join(names)}.")
    found = compare(table, first, second, shown)
    if found is None:
        raise UserError(f"{a} and {b} have no task and seed in common.")
    return describe(found)


def describe(found: Comparison) -> str:
    """A comparison in words, in percentage points."""
    lines_ = [
        f"{found.a[0]} - {found.b[0]}: {100 * found.difference:+.2f} points, mean over {len(found.tasks)} tasks of the "
        f"mean over seeds, {found.pairs} pairs of runs"
    ]
    parts = (
        (found.seeds_interval, "other seeds, these tasks", "too few to say"),
        (
            found.images_interval,
            "other test images, these seeds and tasks",
            "not known, runs do not say which are right",
        ),
        (found.tasks_interval, "other tasks", "too few to say"),
    )
    for interval, what, else_ in parts:
        if interval is None:
            lines_.append(f"  95 % interval, {what}: {else_}")
        else:
            lines_.append(f"  95 % interval, {what}: {100 * interval[0]:+.2f} to {100 * interval[1]:+.2f}")
    if found.p_value is not None:
        lines_.append(f"  paired t-test over seeds, pooled over tasks: p = {found.p_value:.3g}")
    return "\n".join(map(printable, lines_))


#: What the table with costs shows: head, name of the figure, its unit, digits.
COST_COLUMNS = (
    ("step / reference", "step_ratio", 1, 2),
    ("iteration (ms)", "step_seconds", 1e-3, 0),
    ("saved (MiB)", "saved_bytes", 2**20, 1),
    ("peak (MiB)", "peak_bytes", 2**20, 1),
    ("parameters (MiB)", "parameter_bytes", 2**20, 1),
)


def with_costs(results: Results, everything: bool = False) -> str:
    """A table per suite with what a row costs: score, parameters, PPT, time of a step and the three figures of memory,
    these beside full fine-tuning's where that is among the rows.
    """
    tables = [_cost_table(part) for part in suites(kept(results, everything)).values() if part.runs]
    return "\n".join(tables)


def _cost_table(shown: Results) -> str:
    found = lines(shown)
    rows = [line.row for line in found]
    names = row_names(rows, rows)
    tuned = {row_of(r) for r in shown.runs.values() if r["methods"] == [{"type": "Full"}]}
    full = next((line.cost for line in found if line.row in tuned), None)
    metrics = dict.fromkeys(r["main_metric"]["name"] for r in shown.runs.values())
    head = ["method", markdown_text(", ".join(metrics)), "parameters", "PPT", *(name for name, *_ in COST_COLUMNS)]
    head += [f"{name.split()[0]} / full" for name, *_ in COST_COLUMNS] if full else []
    text = [table_line(head), "|---" + "|---:" * (len(head) - 1) + "|"]
    for line in found:
        spread = markdown_text(spread_text(line.std, line.spread if len(line.cells) > 1 else None))
        row = [markdown_text(names[line.row]), f"**{percent(line.mean)}**{spread}", f"{line.parameters:,.0f}"]
        row += [f"{line.ppt:.3f}", *(_figure(line.cost[of], unit, digits) for _, of, unit, digits in COST_COLUMNS)]
        row += [_figure(line.cost[of], full[of], 2) for _, of, *_ in COST_COLUMNS] if full else []
        text.append(table_line(row))
    return "\n".join(text) + "\n"


def _figure(value: float | None, unit: float | None, digits: int) -> str:
    return "" if value is None or not unit else f"{value / unit:.{digits}f}"


#: What ``tools/results.py`` can print.
SHAPES: dict[str, Callable[..., str]] = {
    "markdown": markdown,
    "costs": with_costs,
    "csv": as_csv,
    "json": as_json,
    "list": as_list,
    "compare": comparison,
}
