"""Test a run's checkpoint or adapter file, and write result.json."""

from __future__ import annotations

import os
from collections.abc import Sequence

from vpeft.apis.commands.arguments import Parser, add_config_arguments, add_run_arguments, named_config
from vpeft.apis.commands.ending import say


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument("checkpoint", help="epoch_*.pth or adapter.safetensors of a run")
    add_run_arguments(parser)
    parser.add_argument("--dump-logits", action="store_true", help="store the class scores (docs/analysis.md)")
    parser.add_argument("--results", help="folder of results, for tools/leaderboard.py, to put this one into as well")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation; its result is in WORK_DIR/tta")
    args = parser.parse_args(argv)
    from vpeft.apis.commands.screen import run_screen
    from vpeft.apis.config.load import default_work_dir, load_config
    from vpeft.apis.run.prepare import prepare
    from vpeft.apis.run.test import test
    from vpeft.apis.run.tta import with_tta
    from vpeft.core.trained.result import result_summary

    config = named_config(args)
    with run_screen(args.verbose):
        cfg = load_config(config, args.task, args.cfg_options)
        work_dir = args.work_dir or default_work_dir(config, cfg, args.seed, args.checkpoint)
        if args.tta:
            cfg, work_dir = with_tta(cfg), os.path.join(work_dir, "tta")  # beside the run's own config and result
        if args.dump_logits:
            cfg.custom_hooks = [*cfg.get("custom_hooks", []), {"type": "vpeft.LogitsHook"}]
        result = test(prepare(cfg, work_dir, args.launcher, args.seed), args.checkpoint, args.results)
    if int(os.environ.get("RANK", 0)) == 0:
        say(result_summary(result, work_dir))
