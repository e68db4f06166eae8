"""What the command-line tools share."""

from __future__ import annotations

import argparse

from mmengine.config import DictAction

from vpeft.errors import UserError


class OptionsAction(DictAction):
    """mmengine's ``key=value`` pairs; a value that it cannot read ends in one line."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: list[str],
        option_string: str | None = None,
    ) -> None:
        """Read the pairs."""
        try:
            super().__call__(parser, namespace, values, option_string)
        except (AssertionError, RecursionError, ValueError):
            raise UserError(
                f"{option_string} {' '.join(values)}: give pairs such as key=value, key=[1,2] or a.b.c=0.1, with "
                "balanced brackets; set dictionaries key by key, or in a config file."
            ) from None


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """``config``, ``--task`` and ``--cfg-options``."""
    parser.add_argument("config", help="config file, such as configs/vtab/mona_swin.py")
    parser.add_argument("--task", help="task of the config's suite; class count and augmentation follow")
    parser.add_argument(
        "--cfg-options", nargs="+", action=OptionsAction, help="settings by dotted key, such as train_cfg.max_epochs=10"
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of a run."""
    parser.add_argument("--work-dir", help="where everything is written (work_dirs/<config>_<task>)")
    parser.add_argument("--seed", type=int, help="seed of the run (the config's)")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    # torch's launchers differ in how they pass the local rank; the environment holds it in any case.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
