"""Everything that the leaderboard is written as."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from vpeft.apis.leaderboard.against import against
from vpeft.apis.leaderboard.boards import boards
from vpeft.apis.leaderboard.page import page, page_data
from vpeft.apis.leaderboard.text import as_markdown, board_csv, differences_csv, ranks_csv
from vpeft.apis.results.files import Results
from vpeft.apis.results.published.columns import TABLES, find_table
from vpeft.apis.results.tables import as_csv
from vpeft.errors import UserError
from vpeft.files import write_atomically

#: Folder below the results that it is written to unless another is given.
FOLDER = "leaderboard"


def write_leaderboard(
    results: Results,
    out: str | os.PathLike[str] | None = None,
    published: Sequence[str] | None = None,
    everything: bool = False,
    title: str = "V-PEFT Bench leaderboard",
    alone: bool = False,
    tell: Callable[[str], object] | None = None,
) -> list[Path]:
    """Write the page, Markdown and CSV.

    Args:
        results: What :func:`vpeft.apis.results.files.read_results` gives.
        out: Folder; ``<results>/leaderboard`` unless given.
        published: Names of published tables to compare with; all unless given.
        everything: Put runs off the protocol on the boards too.
        title: Heading.
        alone: The page goes without the result files: it names them and does not link to them; so does one of packed
            results.
        tell: Called with every sentence on the order of our methods against the published ones.

    Returns:
        The files: ``index.html``, ``leaderboard.md``, ``board_<name>.csv`` of each board, ``runs.csv``,
        ``published.csv``, ``ranks.csv``.

    Raises:
        UserError: No run can be shown, or a table is unknown.
    """
    tables = [find_table(name) for name in (TABLES if published is None else published)]
    found = boards(results, everything)
    if not found:
        off = sum(bool(r["protocol"]["faults"]) for r in results.ok().runs.values())
        failed = len(results.runs) - len(results.ok().runs)
        raise UserError(
            f"{results.root}: no run to show ({off} off the protocol, {failed} failed, {len(results.broken)} broken "
            "files): run tools/benchmark.py, or show runs off the protocol with --all."
        )
    folder = results.root / FOLDER if out is None else Path(out)
    compared = [against(found, table) for table in tables]
    for line in (line for a in compared for order in a.orders for line in order.sentences()):
        if tell is not None:
            tell(line)
    alone = alone or not any(path.is_file() for path in results.runs)
    to_root = None if alone else Path(os.path.relpath(results.root, folder)).as_posix()
    data = page_data(results, found, compared, everything, to_root)
    texts = {
        "index.html": page(data, title),
        "leaderboard.md": as_markdown(results, found, compared, everything, title),
        **{f"board_{board.key.slug()}.csv": board_csv(board) for board in found},
        "runs.csv": as_csv(results, everything) + "\n",
        "published.csv": differences_csv(compared),
        "ranks.csv": ranks_csv(compared),
    }
    return [write_atomically(folder / name, text.encode("utf-8", "backslashreplace")) for name, text in texts.items()]
