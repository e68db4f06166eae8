"""Count the parameters that a config trains, without data or weights."""

from __future__ import annotations

import json
from collections.abc import Sequence

from vpeft.apis.commands.arguments import Parser, add_config_arguments, named_config
from vpeft.apis.commands.ending import say


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument("--json", action="store_true", help="machine-readable")
    args = parser.parse_args(argv)
    from vpeft.apis.catalogue import config_parameters
    from vpeft.apis.config.load import load_config
    from vpeft.core.adaptation.report import render

    report = config_parameters(load_config(named_config(args), args.task, args.cfg_options))
    say(json.dumps(report.as_dict(), indent=2) if args.json else render(report))
