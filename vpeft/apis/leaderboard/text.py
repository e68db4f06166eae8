"""The leaderboard as Markdown and CSV."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from vpeft.apis.leaderboard.against import PARAMETERS, PPT, Against, Difference
from vpeft.apis.leaderboard.boards import Board, left_out
from vpeft.apis.leaderboard.names import title as board_title
from vpeft.apis.leaderboard.page import notes
from vpeft.apis.leaderboard.ranks import Order
from vpeft.apis.leaderboard.without_host import Without, mean_without, overtaken, without_host
from vpeft.apis.results.costs import COSTS
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
    text += ["the standard deviation over seeds of a seed's mean over tasks, in brackets the same from the tasks' own"]
    text += ["spreads. " + FORMULA]
    for board in boards:
        runs = Results(results.root, board.results.runs)
        text += [
            "",
            f"## {markdown_text(f'{board_title(board)} ({board.key.data_variant})')}",
            "",
            markdown(runs, everything).rstrip(),
            "",
        ]
        found = without_host(board, results.root)
        text += [_without(board, found), ""] if found else []
        text += [f"- {markdown_text(note)}" for note in (*notes(board), *overtaken(board, found))]
        text += ["", "Cost of ours, medians over runs; inference relative to the frozen host alone:", "", _costs(board)]
    for a in compared:
        text += ["", f"## Ours against published: {a.table.name} ({a.table.source})", ""]
        text += [f"About the table: {a.table.remark}.", ""] if a.table.remark else []
        text += [_differences(a.found), ""] if a.found else ["No cell can be compared.", ""]
        for order in a.orders:
            text += ["Order of methods. " + markdown_text(" ".join(order.sentences())), "", _ranks(order), ""]
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


def _without(board: Board, found: Without) -> str:
    rows = []
    for name, values in found:
        mean = mean_without(values, board.tasks)
        own = [f"{100 * values[task]:.1f}" if task in values else "" for task in board.tasks]
        rows.append([name, *own, "" if mean is None else f"{100 * mean:.1f}"])
    return _table(["without a pretrained host", *board.tasks, "mean"], rows)


def _costs(board: Board) -> str:
    head = ["method", "category", "parameters", "step / reference", "iteration, ms", "saved, MB", "peak, MB"]
    head += ["parameters, MB", "adapter, kB", "inference, adapted", "inference, merged", "memory class", "merges"]
    rows = []
    for e in board.entries:
        step, iteration, saved, peak, weights, size, ratio, merged = (e.cost[name] for name in COSTS)
        busy = " \u2021" if e.busy else ""
        shown = [
            _number(step) + busy * (step is not None),
            _number(iteration, 1e3, 1) + busy * (iteration is not None),
            _number(saved, 1e-6, 1),
            _number(peak, 1e-6, 1),
            _number(weights, 1e-6, 1),
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


def _ranks(order: Order) -> str:
    """Both ranks of every method in common."""
    rows = []
    for one in order.methods:
        ranks = [f"{one.published_rank:g}", f"{one.our_rank:g}", f"{one.lower:+g}" if one.lower else "0"]
        means = [f"{one.published:.2f}", f"{one.ours:.2f}"]
        rows.append([one.row, one.ours_name, *means, *ranks, order.out_of_line(one)])
    head = ["published row", "our row", "published mean", "our mean", "published rank", "our rank", "lower here by"]
    return _table([*head, "out of line"], rows)


def ranks_csv(compared: Sequence[Against]) -> str:
    """Both ranks of every method that a board and a published table have in common."""
    head = ["table", "board", "backbone", "published_row", "our_row", "baseline", "published_mean", "our_mean"]
    head += ["published_rank", "our_rank", "lower_by", "out_of_line"]
    rows: list[list[Any]] = []
    for a in compared:
        for order in a.orders:
            for one in order.methods:
                row = [a.table.name, order.board, order.backbone, one.row, one.ours_name, one.baseline]
                row += [one.published, one.ours, one.published_rank, one.our_rank, one.lower, order.out_of_line(one)]
                rows.append(row)
    return csv_text(head, rows)


def board_csv(board: Board) -> str:
    """A board as CSV, a line per row: values in [0, 1], a standard deviation beside each, empty where there is none."""
    head = ["source", "board", "method", "backbone", "variant", "category", "memory_class", "merges", "seeds"]
    head += [
        "mean_of_tasks",
        "mean_of_tasks_std",
        "mean_of_tasks_std_pooled",
        "mean_of_tasks_images_error",
        "mean_of_groups",
        *(f"mean_{g}" for g in board.group_names),
    ]
    head += ["ppt", "parameters", *COSTS, "behind_best", "behind_best_low", "behind_best_high"]
    head += ["behind_best_p", "behind_best_by_other_rows", "behind_best_images_low", "behind_best_images_high"]
    head += [name for task in board.tasks for name in (task, f"{task}_std")]
    rows = []
    for e in board.entries:
        line, behind = e.line, e.behind
        row: list[Any] = ["ours", board.key.title(), *e.row, e.category, e.memory, e.merges, e.seeds]
        row += [line and line.mean, line and line.std, line and line.spread]
        row += [line and line.images and line.images.error, line and line.mean_of_groups]
        row += [*(e.groups.get(g) for g in board.group_names), line and line.ppt, e.parameters]
        row += [*(e.cost[name] for name in COSTS), behind and behind.difference]
        row += list((behind and behind.interval) or (None, None))
        row += [behind and behind.p_value, behind and behind.borrowed]
        row += list((behind and behind.images) or (None, None))
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
