"""Parameters that a config trains, without data or weights: ``tools/params.py configs/vtab/lora_vit.py --json``."""

import json

from vpeft.apis.catalogue import config_parameters
from vpeft.apis.commands.arguments import Parser, add_config_arguments
from vpeft.apis.commands.ending import run_main, say
from vpeft.apis.config.load import load_config
from vpeft.core.adaptation.report import render


def main() -> None:
    parser = Parser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument("--json", action="store_true", help="machine-readable")
    args = parser.parse_args()
    report = config_parameters(load_config(args.config, args.task, args.cfg_options))
    say(json.dumps(report.as_dict(), indent=2) if args.json else render(report))


if __name__ == "__main__":
    run_main(main)
