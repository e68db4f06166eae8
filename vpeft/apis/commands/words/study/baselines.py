"""Measure what is reached on tasks without a pretrained host, for the tables of a folder of results.

Chance, the mean colour, raw pixels, random filters, differences of frames, and the config's host with random weights,
each with a logistic regression behind it, chosen on the validation images and tested once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from vpeft.apis.commands.arguments import Parser
from vpeft.apis.commands.ending import say


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a config of any method on the host, such as configs/mini/linear_nano_vit.py")
    parser.add_argument("root", help="folder of results, such as work_dirs/benchmark/mini")
    parser.add_argument("--tasks", nargs="+", default=["all"], help="tasks, groups, or all (all)")
    args = parser.parse_args(argv)
    from vpeft.apis.baselines.stored import measure_baselines

    say(measure_baselines(args.config, args.tasks, args.root))
