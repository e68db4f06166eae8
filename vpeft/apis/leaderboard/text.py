"""The leaderboard as Markdown and CSV."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from vpeft.apis.leaderboard.against import PARAMETERS, PPT, Against, Difference
from vpeft.apis.leaderboard.boards import COSTS, Board, left_out
from vpeft.apis.leaderboard.names import title as board_title
from vpeft.apis.leaderboard.page import notes
from vpeft.apis.results.files import Results
from vpeft.apis.results.shown import csv_text, markdown_code, markdown_text, table_line
from vpeft.apis.results.tables import markdown

FORMULA = (
    "PPT = M exp(-log10(P / C + 1)) with C = 10^7, M the mean of tasks in [0, 1], P the trained parameters without "
    "the head (arXiv 2402.02242)."
)


def as_markdown(
    results: Results, boards: Sequence[Board], compared: Sequence[Against], everything: bool, title: str
) -> str:
    """Boards with both averages, costs, what is left out, and the comparisons."""
    text = [f"# {markdown_text(title)}", ""]
    text += ["Ours: measured by the runs in this folder, in percent, mean over seeds; after ±"]
    text += ["the standard deviation over seeds of a seed's mean over tasks. " + FORMULA]
    for board in boards:
        runs = Results(results.root, board.results.runs)
        text += [
            "",
            f"## {markdown_text(f'{board_title(board)} ({board.key.data_variant})')}",
            "",
            markdown(runs, everything).rstrip(),
            "",
        ]
        text += [f"- {markdown_text(note)}" for note in notes(board)]
        text += ["", "Cost of ours, medians over runs; inference relative to the frozen host alone:", "", _costs(board)]
    for a in compared:
        text += ["", f"## Ours against published: {a.table.name} ({a.table.source})", ""]
        text += [f"About the table: {a.table.remark}.", ""] if a.table.remark else []
        text += [_differences(a.found), ""] if a.found else ["No cell can be compared.", ""]
        text += [f"- not compared, {len(cells)}: {markdown_text(why)}" for why, cells in a.reasons.items()]
    out = left_out(results, boards, everything)
    if out or results.broken:
        text += ["", "## Left out", ""]
        text += [f"- {markdown_code(file)}: {markdown_text(why)}" for file, why in out]
        text += [f"- {markdown_text(fault.replace(f'{results.root}/', ''))}" for fault in results.broken]
    return "\n".join(text) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    text = [table_line(head), "|---" + "|---:" * (len(head) - 1) + "|"]
    return "\n".join([*text, *(table_line(map(markdown_text, row)) for row in rows)])


def _costs(board: Board) -> str:
    head = ["method", "category", "parameters", "step, ms", "peak memory, MB", "adapter, kB"]
    head += ["inference, adapted", "inference, merged", "memory class", "merges"]
    rows = []
    for e in board.entries:
        step, peak, size, ratio, merged = (e.cost[name] for name in COSTS)
        busy = " \u2021" if e.busy else ""
        shown = [
            _number(step, 1e3, 1) + busy,
            _number(peak, 1e-6, 1),
            _number(size, 1e-3, 1),
            _number(ratio),
            _number(merged),
        ]
        rows.append([e.name, e.category, f"{e.parameters:,.0f}", *shown, e.memory, e.merges])
    return _table(head, rows)


def _number(value: float | None, factor: float = 1.0, digits: int = 2) -> str:
    return "" if value is None else f"{value * factor:.{digits}f}"


def digits_of(d: Difference) -> int:
    """Decimals that a figure of its kind is shown with."""
    return {PARAMETERS: 4, PPT: 3}.get(d.kind, 2)


def _differences(found: Sequence[Difference]) -> str:
    rows = []
    for d in found:
        n = digits_of(d)
        ours = f"{d.ours:.{n}f}" + ("" if d.std is None else f" ± {d.std:.{n}f}")
        noise = "" if d.noise is None else f"{d.noise:.{n}f}"
        row = [d.row, d.ours_name, d.column, d.what, ours, f"{d.published:g}", f"{d.difference:+.{n}f}", noise]
        rows.append([*row, str(d.seeds), d.verdict])
    head = ["published row", "our row", "published column", "of", "ours", "published", "ours - published"]
    return _table([*head, "noise", "seeds", "verdict"], rows)


def board_csv(board: Board) -> str:
    """A board as CSV, a line per row: values in [0, 1], a standard deviation beside each, empty where there is none."""
    head = ["source", "board", "method", "backbone", "variant", "category", "memory_class", "merges", "seeds"]
    head += ["mean_of_tasks", "mean_of_tasks_std", "mean_of_groups", *(f"mean_{g}" for g in board.group_names)]
    head += ["ppt", "parameters", *COSTS, "behind_best", "behind_best_low", "behind_best_high"]
    head += [name for task in board.tasks for name in (task, f"{task}_std")]
    rows = []
    for e in board.entries:
        line, behind = e.line, e.behind
        row: list[Any] = ["ours", board.key.title(), *e.row, e.category, e.memory, e.merges, e.seeds]
        row += [line and line.mean, line and line.std, line and line.mean_of_groups]
        row += [*(e.groups.get(g) for g in board.group_names), line and line.ppt, e.parameters]
        row += [*(e.cost[name] for name in COSTS), behind and behind.difference]
        row += list((behind and behind.interval) or (None, None))
        for task in board.tasks:
            row += e.mean(task) if task in e.cells else (None, None)
        rows.append(row)
    return csv_text(head, rows)


def differences_csv(compared: Sequence[Against]) -> str:
    """Every difference, and every cell that cannot be compared with the reason."""
    head = ["table", "published_row", "our_row", "board", "column", "kind", "of", "ours", "ours_std", "seeds"]
    head += ["published", "difference", "noise", "verdict"]
    rows: list[list[Any]] = []
    for a in compared:
        for d in a.found:
            row = [a.table.name, d.row, d.ours_name, d.board, d.column, d.kind, d.what, d.ours, d.std, d.seeds]
            rows.append([*row, d.published, d.difference, d.noise, d.verdict])
        for why, cells in a.reasons.items():
            rows += [[a.table.name, cell, *[None] * 11, f"not compared: {why}"] for cell in cells]
    return csv_text(head, rows)
