"""What the command-line tools share."""

from __future__ import annotations

import argparse
import re
from typing import Any, NoReturn

from vpeft.errors import UserError, closest

ENDING = "Errors end in one line (status 2: input, use or machine; 1: ours); --traceback shows where they come from."


class Parser(argparse.ArgumentParser):
    """argparse's, of which wrong use ends as every other error does, with the nearest word for an unknown one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"epilog": ENDING, "allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        """Refuse a command line.

        Raises:
            UserError: Always.
        """
        choice = re.match(r"argument [^:]*: invalid choice: '(.*)' \(choose from (.*)\)", message)
        flag = re.match(r"unrecognized arguments: (-\S+)", message)
        if choice:
            close = closest(choice[1], re.findall(r"[\w.+-]+", choice[2]))
        else:
            close = closest(flag[1].partition("=")[0], self._option_string_actions) if flag else None
        question = "" if close is None else f"; did you mean {close!r}?"
        raise UserError(f"{message}{question} ({self.prog} --help lists everything)")


def seed_number(text: str) -> int:
    """A seed of a command line, such as torch and numpy take.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    if not text.isascii() or not text.isdigit() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is no seed: a whole number from 0 to {2**32 - 1}")
    return int(text)


class OptionsAction(argparse.Action):
    """``key=value`` pairs as mmengine reads them; one that is none, or stands against another, ends in one line."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: list[str],
        option_string: str | None = None,
    ) -> None:
        """Read the pairs."""
        from mmengine.config import DictAction  # a help must not wait for it

        before = dict(getattr(namespace, self.dest, None) or {})
        for pair in values:
            if (fault := _fault(pair, before)) is not None:
                raise UserError(f"{option_string} {pair}: {fault}")
            try:
                DictAction([option_string], self.dest)(parser, namespace, [pair], option_string)
            except (AssertionError, RecursionError, ValueError):
                raise UserError(
                    f"{option_string} {pair}: give pairs such as key=value, key=[1,2] or a.b.c=0.1, with balanced "
                    "brackets; set dictionaries key by key, or in a config file."
                ) from None
            before = getattr(namespace, self.dest)


def _fault(pair: str, before: dict[str, Any]) -> str | None:
    """What is wrong with a pair beside those that were read before it."""
    key, sign, value = pair.partition("=")
    if not sign or not all(part.strip() == part != "" for part in key.split(".")):
        return "give pairs such as key=value or a.b.c=0.1; a key is names (or places in a list) joined by dots."
    if not value:
        return f"no value; {key}='\"\"' sets an empty text, {key}=None nothing."
    if value.startswith(("{", "dict(")):
        return "set dictionaries key by key (a.b=1 a.c=2), or in a config file."
    if not _balanced(value):
        return "its brackets are not balanced."
    if re.search(r"(?:^|[(\[,])\s*,", value):
        return "a list has an empty place."
    for other in before:
        if other == key:
            return f"{key} is given twice: once is meant."
        if f"{other}.".startswith(f"{key}.") or f"{key}.".startswith(f"{other}."):
            return f"{key} and {other} set the same: leave one out."
    return None


def _balanced(value: str) -> bool:
    """Whether every bracket of a value closes the one that was opened last."""
    opened = []
    for sign in value:
        if sign in "([":
            opened.append(sign)
        elif sign in ")]" and (not opened or opened.pop() + sign not in ("()", "[]")):
            return False
    return not opened


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """``config``, ``--method``, ``--task`` and ``--cfg-options``; :func:`named_config` reads the first two."""
    parser.add_argument("config", help="config file, such as configs/vtab/mona_swin.py, or vpeft::vtab/mona_swin.py")
    parser.add_argument("--method", help="method for a recipe or for DATA, such as lora")
    parser.add_argument("--task", help="task of the config's suite; class count and augmentation follow")
    parser.add_argument(
        "--cfg-options", nargs="+", action=OptionsAction, help="settings by dotted key, such as train_cfg.max_epochs=10"
    )


def named_config(args: argparse.Namespace) -> str:
    """The config that the command line names, by its own name or by recipe and method."""
    from vpeft.apis.config.names import with_method

    return with_method(args.config, args.method)


def add_verbose(parser: argparse.ArgumentParser) -> None:
    """``--verbose``."""
    parser.add_argument("--verbose", action="store_true", help="show on the screen what else is in the log file")


def add_data_store(parser: argparse.ArgumentParser, usual: str) -> None:
    """``--data-store``; ``usual`` is what is so where it is not given."""
    parser.add_argument("--data-store", metavar="SIZE", help=f"decoded images that are kept: 20GB, or off ({usual})")


def add_feature_cache(parser: argparse.ArgumentParser) -> None:
    """``--feature-cache`` of many runs."""
    parser.add_argument(
        "--feature-cache",
        metavar="SIZE",
        help="keep what frozen blocks make of images, in <out>/features for all runs, such as 20GB (docs/running.md)",
    )


def add_run_arguments(parser: argparse.ArgumentParser, store: str | None = None) -> None:
    """Flags of a run; with ``--data-store`` where ``store`` says what is usual."""
    parser.add_argument(
        "--work-dir", help="where everything is written (work_dirs/<config>_<task>, one for each --seed)"
    )
    parser.add_argument("--seed", type=seed_number, help="seed of the run (the config's)")
    add_verbose(parser)
    if store is not None:
        add_data_store(parser, store)
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    # torch's launchers differ in how they pass the local rank; the environment holds it in any case.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
