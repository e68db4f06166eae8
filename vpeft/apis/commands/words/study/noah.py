"""NOAH: train a supernet, search a subnet, train and test it.

Run again, it goes on where it was left.
"""

from __future__ import annotations

from collections.abc import Sequence

from vpeft.apis.commands.arguments import Parser, add_config_arguments, add_verbose, named_config, seed_number
from vpeft.apis.commands.ending import say


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument("--work-dir", default="work_dirs/noah", help="supernet/, search/, subnet.py and subnet/")
    add_verbose(parser)
    parser.add_argument("--seed", type=seed_number, default=0, help="seed of all stages")
    args = parser.parse_args(argv)
    from vpeft.apis.commands.screen import run_screen
    from vpeft.apis.tune.noah import noah
    from vpeft.core.trained.result import result_summary

    with run_screen(args.verbose):
        result = noah(named_config(args), args.task, args.work_dir, args.seed, args.cfg_options)
    say(result_summary(result, f"{args.work_dir}/subnet"))
