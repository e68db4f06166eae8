"""Test what was trained, and write result.json: the figure that counts, and that of every class.

``vpeft test RUN``: a run's folder; its best adapter is tested, or else its last, with the run's own config.

``vpeft test CONFIG CHECKPOINT``: a checkpoint or adapter file of a run of that config.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from vpeft.apis.commands.arguments import Parser, add_config_arguments, add_run_arguments, named_config
from vpeft.apis.commands.ending import say
from vpeft.errors import UserError


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_arguments(parser)
    parser.add_argument("checkpoint", nargs="?", help="epoch_*.pth or adapter.safetensors; needed beside a config")
    add_run_arguments(parser)
    parser.add_argument("--dump-logits", action="store_true", help="store the class scores (docs/analysis.md)")
    parser.add_argument("--results", help="folder of results, for tools/leaderboard.py, to put this one into as well")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation; its result is in WORK_DIR/tta")
    args = parser.parse_args(argv)
    from vpeft.apis.commands.screen import run_screen
    from vpeft.apis.config.load import default_work_dir, load_config
    from vpeft.apis.run.own import is_of_own_data, own_summary, test_own
    from vpeft.apis.run.prepare import prepare
    from vpeft.apis.run.test import test
    from vpeft.apis.run.tta import with_tta
    from vpeft.core.trained.result import result_summary

    config, checkpoint = _config_and_file(args)
    with run_screen(args.verbose):
        cfg = load_config(config, args.task, args.cfg_options)
        work_dir = args.work_dir or default_work_dir(config, cfg, args.seed, checkpoint)
        if args.tta:
            cfg, work_dir = with_tta(cfg), os.path.join(work_dir, "tta")  # beside the run's own config and result
        if args.dump_logits:
            cfg.custom_hooks = [*cfg.get("custom_hooks", []), {"type": "vpeft.LogitsHook"}]
        is_own = is_of_own_data(cfg)
        tested = (test_own if is_own else test)(
            prepare(cfg, work_dir, args.launcher, args.seed), checkpoint, args.results
        )
    if int(os.environ.get("RANK", 0)) == 0:
        say((own_summary if is_own else result_summary)(tested, work_dir))


def _config_and_file(args: argparse.Namespace) -> tuple[str, str]:
    """The config and the file that the command line names, or those of the run's folder."""
    from vpeft.apis.predict.load import weights_of
    from vpeft.core.trained.run import open_run

    if os.path.isdir(args.config):
        if args.method:
            raise UserError(f"--method {args.method}: {args.config} is a run's folder, which has its method.")
        run = open_run(args.config)
        return str(run.cfg.filename), args.checkpoint or str(weights_of(run.folder))
    if args.checkpoint is None:
        raise UserError(
            f"{args.config} is no run's folder: give one, such as work_dirs/lora_nano_vit_digits, or a config and a "
            "checkpoint."
        )
    return named_config(args), args.checkpoint
