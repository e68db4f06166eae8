"""Train what a config describes.

``vpeft train configs/vtab/mona_swin.py --task dtd``
"""

from __future__ import annotations

from collections.abc import Sequence

from vpeft.apis.commands.arguments import Parser, add_config_arguments, add_run_arguments, named_config


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    add_config_arguments(parser)
    add_run_arguments(parser)
    parser.add_argument("--amp", action="store_true", help="mixed precision")
    parser.add_argument(
        "--resume", nargs="?", const=True, default=False, help="go on from the last checkpoint, or from this file"
    )
    args = parser.parse_args(argv)
    from vpeft.apis.config.load import default_work_dir, load_config
    from vpeft.apis.run.prepare import prepare
    from vpeft.apis.run.train import train

    config = named_config(args)
    cfg = load_config(config, args.task, args.cfg_options)
    work_dir = args.work_dir or default_work_dir(config, cfg, args.seed)
    train(prepare(cfg, work_dir, args.launcher, args.seed, args.resume, args.amp))
