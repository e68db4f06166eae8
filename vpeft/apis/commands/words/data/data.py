"""Look at data of your own, check the folder of a suite, or draw embedded tasks.

``vpeft data DATA`` says what a folder, a CSV or a COCO file is, how it is divided, and what is wrong with it.
``check ROOT`` says what of a suite is there; ``sheet``, ``label-maps``, ``objects`` and ``clips`` draw.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vpeft.apis.commands.arguments import Parser
from vpeft.apis.commands.ending import say
from vpeft.apis.commands.own_data import look_word
from vpeft.errors import printable

#: Pictures of the embedded tasks: which function of :mod:`vpeft.apis.data.sheets` draws them, and what is on them.
SHEETS = {
    "sheet": ("contact_sheet", "contact sheet of the embedded tasks"),
    "label-maps": ("label_map_sheet", "embedded scenes with their label maps"),
    "objects": ("object_sheet", "embedded scenes with their boxes and masks"),
    "clips": ("clip_sheet", "frames of the moving shapes"),
}


def _check(args: argparse.Namespace) -> int:
    """Print a table; 1 where nothing is there, or something that is there is broken."""
    from vpeft.apis.data.check import check_suite
    from vpeft.core.datasets.tasks import SPLITS

    states, splits = check_suite(args.root, args.suite, args.decode), SPLITS[args.suite].names
    table = Table("task", *splits, "state")
    for state in states:
        counts = (str(state.counts.get(split, "")) for split in splits)
        table.add_row(
            state.task, *counts, Text(printable(state.problem or "ok")), style=None if state.present else "dim"
        )
    Console(soft_wrap=False).print(table)
    present = [state for state in states if state.present]
    whole = [state for state in present if state.problem is None]
    say(f"{len(whole)} of {len(states)} tasks whole, {len(present) - len(whole)} broken")
    return 0 if whole and len(whole) == len(present) else 1


def _draw(args: argparse.Namespace) -> None:
    """Draw a sheet."""
    from vpeft.apis.data import sheets

    say(getattr(sheets, args.draw)(args.out))


def _is_folder(argv: Sequence[str]) -> bool:
    """Whether data happen to be called as one of the commands, which all name something more."""
    return os.path.exists(argv[0]) and (len(argv) == 1 or argv[1].startswith("-"))


def main(argv: Sequence[str] | None = None) -> int | None:
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and (argv[0] not in ("-h", "--help", "check", *SHEETS) or _is_folder(argv)):
        look_word(argv, __doc__)
        return 0
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("check", help="what of VTAB-1k, FGVC or whole data sets stands in a folder")
    one.add_argument("root", help="folder that holds the tasks' folders, such as data/vtab-1k")
    one.add_argument("--suite", default="vtab", help="vtab, fgvc or another of docs/data.md (%(default)s)")
    one.add_argument("--decode", action="store_true", help="read every image too")
    one.set_defaults(run=_check)
    for name, (draw, about) in SHEETS.items():
        other = commands.add_parser(name, help=about)
        other.add_argument("out", help="PNG file")
        other.set_defaults(run=_draw, draw=draw)
    args = parser.parse_args(argv)
    return args.run(args)
