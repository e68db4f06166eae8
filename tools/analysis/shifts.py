"""Draw what the shifts do to an embedded task: ``tools/analysis/shifts.py digits shifts.png``."""

from vpeft.apis.commands.arguments import Parser
from vpeft.apis.commands.ending import run_main, say
from vpeft.extension.interpolation.shift_sheet import draw_shifts


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("task", help="embedded task, such as digits")
    parser.add_argument("out", help="picture, .png or .svg")
    args = parser.parse_args()
    say(f"written to {draw_shifts(args.task, args.out)}")


if __name__ == "__main__":
    run_main(main)
