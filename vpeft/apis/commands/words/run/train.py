"""Train what a config describes, or on data of your own.

``vpeft train configs/vtab/mona_swin.py --task dtd``

``vpeft train DATA --model timm/vit_base_patch14_dinov2 --method lora``: DATA is a folder of class folders (images,
videos, frames), a CSV of paths and labels, a COCO file, a YOLO folder, or images and label maps.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from vpeft.apis.commands.arguments import Parser, add_config_arguments, add_run_arguments, named_config
from vpeft.apis.commands.ending import say
from vpeft.apis.commands.own_data import add_own_arguments, own_options, refuse_own, search_rate, share_options
from vpeft.errors import UserError


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_arguments(parser)
    add_run_arguments(parser, "the config's; with DATA of 10,000 images at most 5GB")
    parser.add_argument("--amp", action="store_true", help="mixed precision")
    parser.add_argument(
        "--resume", nargs="?", const=True, default=False, help="go on from the last checkpoint, or from this file"
    )
    add_own_arguments(parser)
    args = parser.parse_args(argv)
    from vpeft.core.datasets.own.recognise import is_own_data

    if is_own_data(args.config):
        _train_own(args)
        return
    refuse_own(args)
    from vpeft.apis.commands.screen import run_screen
    from vpeft.apis.config.load import default_work_dir, load_config
    from vpeft.apis.run.prepare import prepare
    from vpeft.apis.run.train import train

    config = named_config(args)
    with run_screen(args.verbose):
        cfg = load_config(config, args.task, args.cfg_options)
        work_dir = args.work_dir or default_work_dir(config, cfg, args.seed)
        train(prepare(cfg, work_dir, args.launcher, args.seed, args.resume, args.amp, args.data_store))


def _train_own(args: argparse.Namespace) -> None:
    from rich.console import Console

    from vpeft.apis.commands.screen import run_screen
    from vpeft.apis.config.own.from_data import model_line, run_on_data
    from vpeft.apis.data.own import own_screen
    from vpeft.apis.run.own import need_same_data, own_summary, train_own
    from vpeft.apis.run.prepare import prepare
    from vpeft.apis.run.train import is_first

    if args.tune is not None and args.launcher != "none":
        raise UserError(f"--tune {args.tune}: a search runs in one process: search without --launcher, then give --lr.")
    run = run_on_data(
        args.config, own_options(args), args.family, work_dir=args.work_dir, quiet=False, **share_options(args)
    )
    first = is_first(args.launcher)
    if first and not args.show_config:
        Console().print(own_screen(run.seen), soft_wrap=True)
        say(model_line(run))
    if args.tune is not None:
        search_rate(run.cfg, run.work_dir, args.tune, args.seed or 0)
    if args.show_config:
        say(run.cfg.pretty_text)
        return
    if args.resume:
        need_same_data(run.work_dir, run.lists, args.resume)
    prepare(run.cfg, run.work_dir, args.launcher, args.seed, args.resume, args.amp, args.data_store)
    with run_screen(args.verbose):
        result = train_own(run.cfg)
    if first:
        say(own_summary(result, run.work_dir))
