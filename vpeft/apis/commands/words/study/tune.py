"""Search a config's settings on its training images, judged on those of validation.

``vpeft tune configs/mini/lora_nano_vit.py --task digits``

``--grid lr=[0.001,0.01] rank=[4,8] drop=0`` goes through all combinations instead: a list is tuned, a scalar is fixed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from vpeft.apis.commands.arguments import (
    OptionsAction,
    Parser,
    add_config_arguments,
    add_data_store,
    add_feature_cache,
    named_config,
    seed_number,
)
from vpeft.apis.commands.ending import say
from vpeft.apis.jobs.engines.build import ENGINES, build_engine


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_arguments(parser)
    parser.add_argument("--trials", type=int, default=20, help="trials in all; run again, the rest of them (20)")
    parser.add_argument("--seed", type=seed_number, default=0, help="seed of the search and of every training (0)")
    parser.add_argument("--batch", type=int, default=1, help="trials that are decided, and may run, together (1)")
    parser.add_argument("--space", nargs="+", action=OptionsAction, default={}, help="list = searched, scalar = fixed")
    parser.add_argument("--grid", nargs="+", action=OptionsAction, help="the same, all combinations")
    parser.add_argument("--out", default="work_dirs/tune", help="folder; <out>/tuning/<config>/<task> has the best")
    parser.add_argument("--engine", default="local", help=f"where trials run: {', '.join(ENGINES)}")
    parser.add_argument("--workers", type=int, help="trials at once")
    parser.add_argument("--address", help="of a Ray cluster")
    parser.add_argument("--engine-options", nargs="+", action=OptionsAction, default={}, help="others of the engine")
    add_data_store(parser, "20GB for suites of files, in the folder of --out")
    add_feature_cache(parser)
    args = parser.parse_args(argv)
    from vpeft.apis.commands.screen import show_lines
    from vpeft.apis.config.load import load_config
    from vpeft.apis.jobs.shared_store import store_asked, store_of_job
    from vpeft.apis.tune.shown import found_lines, search_lines
    from vpeft.apis.tune.study import Study, tune  # it needs an extra, and where that is missing says which

    config = named_config(args)
    suite = load_config(config, args.task, args.cfg_options).get("suite")
    study = Study.of(
        config,
        args.task,
        suite,
        args.out,
        args.trials,
        args.seed,
        args.batch,
        args.grid or args.space,
        grid=args.grid is not None,
        options=args.cfg_options,
    )
    study.feature_cache = args.feature_cache
    options = {"workers": args.workers, "address": args.address, **args.engine_options}
    with build_engine(args.engine, **options) as engine:
        store, _ = store_asked(args.data_store, args.out, engine.one_machine)
        study.data_store = store_of_job(store, args.data_store, suite)
        show_lines(*search_lines(study, engine.slots))
        (best,) = tune([study], engine)
    show_lines(*found_lines(study, best))
    say(json.dumps(best, indent=2))
    say(f"a config that trains alone: {study.folder / 'best.py'}")
