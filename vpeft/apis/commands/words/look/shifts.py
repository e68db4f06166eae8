"""Draw what the shifts do to an embedded task."""

from __future__ import annotations

from collections.abc import Sequence

from vpeft.apis.commands.arguments import Parser
from vpeft.apis.commands.ending import say


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("task", help="embedded task, such as digits")
    parser.add_argument("out", help="picture, .png or .svg")
    args = parser.parse_args(argv)
    from vpeft.extension.interpolation.shift_sheet import draw_shifts

    say(f"written to {draw_shifts(args.task, args.out)}")
