"""The leaderboard as one HTML page that needs nothing but a browser.

The page carries the figures as JSON and draws itself; every name gets in as text, never as markup. Configs, which are
long and alike, lie in it compressed, one for each cell (its runs differ in the seed alone).
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from vpeft.apis.leaderboard.against import Against
from vpeft.apis.leaderboard.boards import MEMORY, Board, BoardRow, left_out
from vpeft.apis.leaderboard.names import plain_task, short_titles, title
from vpeft.apis.leaderboard.without_host import mean_without, overtaken, without_host
from vpeft.apis.results.costs import BUSY, COSTS
from vpeft.apis.results.files import Results, shared_settings
from vpeft.core.contract.method import CATEGORIES
from vpeft.core.families.metrics import PPT_CONSTANT, metric_name
from vpeft.extension.drawing.script_data import script_json

FOLDER = Path(__file__).parent / "assets"
SCRIPTS = ("page.js", "table.js", "plots.js", "panel.js")


def page(data: Mapping[str, Any], title: str) -> str:
    """The page of :func:`page_data`."""
    script = "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS)
    return Template((FOLDER / "page.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        style=(FOLDER / "page.css").read_text(encoding="utf-8"),
        script=script,
        data=script_json(data),
    )


def page_data(
    results: Results, boards: Sequence[Board], compared: Sequence[Against], everything: bool, to_root: str | None
) -> dict[str, Any]:
    """What the page shows.

    Args:
        results: All results of the folder.
        boards: Its boards.
        compared: Comparisons with published tables.
        everything: Whether runs off the protocol are on the boards.
        to_root: From the page to the results' folder, for its links; None for a page without them.
    """
    runs, configs, versions = _Numbered(), _Numbered(), _Numbered()
    pairs = zip(boards, short_titles(boards), strict=True)
    shown = [_board(*pair, results.root, runs, configs, versions) for pair in pairs]
    packed = gzip.compress(json.dumps(list(configs.known)).encode(), 9, mtime=0)
    out = left_out(results, boards, everything)
    return {
        "boards": shown,
        "runs": [json.loads(run) for run in runs.known],
        "versions": list(versions.known),
        "configs": base64.b64encode(packed).decode(),
        "against": [_against(a) for a in compared],
        "left_out": [{"file": file, "why": why} for file, why in out],
        "broken": [_relative(text, results) for text in results.broken],
        "everything": everything,
        "root": to_root,
        "constant": PPT_CONSTANT,
        "busy": BUSY,
        "memory": MEMORY,
        "categories": CATEGORIES,
    }


def _relative(text: str, results: Results) -> str:
    return text.replace(f"{results.root}/", "")


class _Numbered:
    """Texts, each once, known by their number."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        return self.known.setdefault(text, len(self.known))


def _board(
    board: Board, short: str, root: Path, runs: _Numbered, configs: _Numbered, versions: _Numbered
) -> dict[str, Any]:
    common = shared_settings(entry.row for entry in board.entries)
    found = without_host(board, root)
    said = [*([f"All rows with {', '.join(common)}."] if common else []), *notes(board), *overtaken(board, found)]
    return {
        "id": board.key.slug(),
        "title": title(board),
        "short": short,
        "data": board.key.data_variant,
        "tasks": [{"name": t, "label": _label(board, t), "group": board.groups[t]} for t in board.tasks],
        "groups": board.group_names,
        "metrics": _metrics(board),
        "notes": said,
        "without": [{"name": n, "values": v, "mean": mean_without(v, board.tasks)} for n, v in found],
        "entries": [_entry(board, entry, runs, configs, versions) for entry in board.entries],
    }


def _metrics(board: Board) -> list[str]:
    return sorted({metric_name(r["main_metric"]["name"]) for r in board.results.runs.values()})


def _label(board: Board, task: str) -> str:
    """A column's head: the task of a suite; a board of one task of no suite is that task, so its metric."""
    suite = next(iter(board.results.runs.values()))["suite"]
    return plain_task(task) if suite else ", ".join(_metrics(board))


def _entry(board: Board, entry: BoardRow, runs: _Numbered, configs: _Numbered, versions: _Numbered) -> dict[str, Any]:
    method, backbone, variant = entry.row
    cells = {}
    for task, cell in entry.cells.items():
        mean, std = entry.mean(task)
        first = board.results.runs[next(iter(cell.runs.values()))]
        numbers = []
        for path in cell.runs.values():
            r = board.results.runs[path]
            numbers.append(
                runs(json.dumps(_run(r, path.relative_to(board.results.root), configs(first["full_config"]), versions)))
            )
        cells[task] = {"mean": mean, "std": std, "runs": numbers}
    line, behind = entry.line, entry.behind
    return {
        "name": entry.name,
        "method": method,
        "backbone": backbone,
        "variant": variant,
        "category": entry.category,
        "memory": entry.memory,
        "merges": entry.merges,
        "mean": line and line.mean,
        "std": line and line.std,
        "spread": line and line.spread,
        "mean_of_groups": line and line.mean_of_groups,
        "groups": entry.groups,
        "ppt": line and line.ppt,
        "parameters": entry.parameters,
        "cost": {name: entry.cost[name] for name in COSTS},
        "busy": entry.busy,
        "selected": entry.selected,
        "mixed": entry.mixed,
        "seeds": entry.seeds,
        "trials": _trials(board, entry),
        "behind": behind and {**vars(behind), "tells": behind.tells},
        "cells": cells,
    }


def _run(r: Mapping[str, Any], file: Path, config: int, versions: _Numbered) -> dict[str, Any]:
    cost = r["cost"]
    return {
        "file": file.as_posix(),
        "seed": r["seed"],
        "metric": r["main_metric"]["name"],
        "value": r["main_metric"]["value"],
        "written": r["written"],
        "git": r.get("git"),
        "code": r.get("code"),
        "config_file": r["config"],
        "config": config,
        "versions": versions(", ".join(f"{k} {v}" for k, v in r["versions"].items() if v)),
        "device": cost.get("device"),
        "threads": cost.get("threads"),
        "load": cost.get("load"),
        "host": r["host"],
        "data_variant": r["data_variant"],
        "tuning": r["tuning"],
        "faults": r["protocol"]["faults"],
    }


def _trials(board: Board, entry: BoardRow) -> int | None:
    """Trials of the searches behind a row's settings: their median, None where no setting was searched."""
    found = [board.results.runs[path]["tuning"] for cell in entry.cells.values() for path in cell.runs.values()]
    numbers = [t["trials"] for t in found if t and isinstance(t.get("trials"), (int, float))]
    return round(statistics.median(numbers)) if numbers else None


def notes(board: Board) -> list[str]:
    """What a reader must know before comparing rows: where runs were not alike."""
    runs = board.results.runs.values()
    found = []

    def unlike(what: str, values: Sequence[Any], effect: str) -> None:
        names = sorted({str(value) for value in values})
        if len(names) > 1:
            found.append(f"{what} differ ({', '.join(names)}): {effect}")

    machines = [f"{r['cost'].get('device')}, {r['cost'].get('threads')} threads" for r in runs]
    unlike("Devices", machines, "compare times of iterations and peaks within one device only.")
    unlike("Normalisations", [r.get("normalisation") for r in runs], "they move results.")
    budgets = [(r["tuning"] or {}).get("trials", 0) for r in runs]
    unlike("Tuning budgets in trials", budgets, "an honest comparison gives every method the same.")
    metrics = [r["main_metric"]["name"] for r in runs]
    unlike("Metrics", metrics, "an average over them has no unit.")
    one, two = (sum(entry.seeds == number for entry in board.entries) for number in (1, 2))
    rows = len(board.entries)
    if one:
        found.append(f"{one} of {rows} rows have one seed: no spread, no interval, and no order among neighbours.")
    if two:
        found.append(f"{two} of {rows} rows have two seeds: their spread says little.")
    if sampled := [entry.line.images.error for entry in board.entries if entry.line and entry.line.images]:
        found.append(
            f"Other test images drawn alike would move a row's mean by {100 * statistics.median(sampled):.1f} points "
            f"(standard error, the median of {len(sampled)} rows){_regions_said(board)}."
        )
    if mixed := [entry.name for entry in board.entries if entry.mixed]:
        found.append(f"Runs of different code stand in one row (\u00a7): {', '.join(mixed)}.")
    if chosen := [entry for entry in board.entries if entry.selected]:
        leads = " The leader is one of them." if board.entries[0].selected else ""
        names = ", ".join(f"{entry.name} of {entry.selected}" for entry in chosen)
        found.append(f"Selected by these very results among several settings (\u00b6), so too good: {names}.{leads}")
    if busy := sum(entry.busy for entry in board.entries):
        found.append(f"{busy} of {rows} rows were timed on a busy machine (\u2021): their steps may be too long.")
    return found


def _regions_said(board: Board) -> str:
    """Of which tasks a region of a photograph is what is drawn, and how many there are."""
    runs = board.results.runs.values()
    counts = {r["task"]: len(r["test_answers"]["regions"]) for r in runs if "regions" in r.get("test_answers", {})}
    said = ", ".join(f"{task} {counts[task]}" for task in board.tasks if task in counts)
    return (
        f"; what is drawn is an image, or of these a region of a photograph with all its patches: {said}"
        if said
        else ""
    )


def _against(a: Against) -> dict[str, Any]:
    return {
        "table": a.table.name,
        "source": a.table.source,
        "remark": a.table.remark,
        "reasons": [{"why": why, "cells": cells} for why, cells in a.reasons.items()],
        "orders": [
            {
                "board": order.board,
                "backbone": order.backbone,
                "sentences": order.sentences(),
                "methods": [{**vars(one), "lower": one.lower, "far": order.out_of_line(one)} for one in order.methods],
            }
            for order in a.orders
        ],
        "found": [
            {
                "row": d.row,
                "ours_name": d.ours_name,
                "board": d.board,
                "column": d.column,
                "kind": d.kind,
                "what": d.what,
                "ours": d.ours,
                "published": d.published,
                "std": d.std,
                "seeds": d.seeds,
                "noise": d.noise,
                "difference": d.difference,
                "verdict": d.verdict,
            }
            for d in a.found
        ],
    }
