"""Data: `check ROOT` says what of a suite is there; `sheet`, `label-maps`, `objects`, `clips` draw embedded tasks."""

import argparse

from rich.console import Console
from rich.table import Table

from vpeft.apis.commands.arguments import Parser
from vpeft.apis.commands.ending import run_main
from vpeft.apis.data.check import LISTED, check_suite
from vpeft.apis.data.sheets import clip_sheet, contact_sheet, label_map_sheet, object_sheet
from vpeft.core.datasets.tasks import SPLITS


def check(args: argparse.Namespace) -> int:
    """Print a table; 1 where nothing is there, or something that is there is broken."""
    states, splits = check_suite(args.root, args.suite, args.decode), SPLITS[args.suite].names
    table = Table("task", *splits, "state")
    for state in states:
        counts = (str(state.counts.get(split, "")) for split in splits)
        table.add_row(state.task, *counts, state.problem or "ok", style=None if state.present else "dim")
    Console(soft_wrap=False).print(table)
    present = [state for state in states if state.present]
    whole = [state for state in present if state.problem is None]
    print(f"{len(whole)} of {len(states)} tasks whole, {len(present) - len(whole)} broken")
    return 0 if whole and len(whole) == len(present) else 1


def sheet(args: argparse.Namespace) -> int:
    """Draw the contact sheet."""
    print(contact_sheet(args.out))
    return 0


def label_maps(args: argparse.Namespace) -> int:
    """Draw scenes and their label maps."""
    print(label_map_sheet(args.out))
    return 0


def objects(args: argparse.Namespace) -> int:
    """Draw scenes with their boxes and masks."""
    print(object_sheet(args.out))
    return 0


def clips(args: argparse.Namespace) -> int:
    """Draw the frames of clips."""
    print(clip_sheet(args.out))
    return 0


def main() -> int:
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("check", help="what of VTAB-1k, FGVC or whole data sets stands in a folder")
    one.add_argument("root", help="folder that holds the tasks' folders, such as data/vtab-1k")
    one.add_argument("--suite", choices=list(LISTED), default="vtab", help="of which suite (vtab)")
    one.add_argument("--decode", action="store_true", help="read every image too")
    one.set_defaults(run=check)
    two = commands.add_parser("sheet", help="contact sheet of the embedded tasks")
    two.add_argument("out", help="PNG file")
    two.set_defaults(run=sheet)
    three = commands.add_parser("label-maps", help="embedded scenes with their label maps")
    three.add_argument("out", help="PNG file")
    three.set_defaults(run=label_maps)
    four = commands.add_parser("objects", help="embedded scenes with their boxes and masks")
    four.add_argument("out", help="PNG file")
    four.set_defaults(run=objects)
    five = commands.add_parser("clips", help="frames of the moving shapes")
    five.add_argument("out", help="PNG file")
    five.set_defaults(run=clips)
    args = parser.parse_args()
    return args.run(args)


if __name__ == "__main__":
    run_main(main)
