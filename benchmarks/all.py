"""Every benchmark here in one command, and one page of what it found.

    python benchmarks/all.py --quick                         # tiny models: a few minutes on two cores
    python benchmarks/all.py --full --out work_dirs/costs    # ViT-B/16, the machine alone: about three hours on a CPU
    python benchmarks/all.py --full --device cuda            # one GPU, bfloat16, batches of 64 and 256: under 8 minutes

Each part (``common/parts.py``) runs in a process of its own. What is done is kept in the out folder: started again with
the same settings and commit, the command goes on where it was. A part whose library is missing, or that fails, is a
line on the page. ``page.md`` and ``page.json`` hold all of it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import vpeft  # isort: skip  # noqa: F401  mends torchvision

from benchmarks.common.page import page_markdown
from benchmarks.common.parts import PARTS, Part, Settings, say
from benchmarks.common.vtab_table import table_figures
from vpeft.apis.commands.ending import run_main
from vpeft.apis.jobs.scheduler import clock
from vpeft.core.trained.code import git_hash
from vpeft.errors import UserError, one_line
from vpeft.files import write_atomically, write_json
from vpeft.registry import nearest

#: Timed rounds of a part unless given.
ROUNDS = {"quick": 3, "full": 5}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--quick", action="store_true", help="tiny models: that all of it runs; its times say little")
    size.add_argument("--full", action="store_true", help="ViT-B/16")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--parts", nargs="+", metavar="NAME", help=f"of {', '.join(PARTS)}; all unless given")
    parser.add_argument("--methods", nargs="+", metavar="NAME", default=[], help="registered methods; all unless given")
    parser.add_argument("--rounds", type=int, help="timed rounds; 3 with --quick, 5 with --full")
    parser.add_argument("--out", help="folder of the page; work_dirs/benchmarks/<size>_<device> unless given")
    parser.add_argument("--again", action="store_true", help="measure what is done once more")
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)  # a part's own process
    args = parser.parse_args(argv)
    if args.rounds is not None and args.rounds < 1:
        parser.error("--rounds must be at least 1")
    return args


def settings_of_arguments(args: argparse.Namespace) -> Settings:
    """What is asked for.

    Raises:
        UserError: There is no such device.
    """
    mode = "quick" if args.quick else "full"
    if args.device.startswith("cuda"):
        import torch

        if not torch.cuda.is_available():
            raise UserError(f"--device {args.device}: torch finds no GPU here; use cpu.")
    elif args.device != "cpu":
        raise UserError(f"--device {args.device}: cpu or cuda.")
    return Settings(mode, args.device, args.rounds or ROUNDS[mode], tuple(args.methods))


def chosen_parts(settings: Settings, names: Sequence[str] | None) -> list[Part]:
    """The parts that are asked for, in the page's order; all that this device has unless named.

    Raises:
        UserError: There is no part of that name, or not on this device.
    """
    there = {name: part for name, part in PARTS.items() if settings.key in part.seconds}
    for name in names or ():
        if name not in there:
            why = "is not measured on this device" if name in PARTS else nearest(name, there)
            raise UserError(f"--parts: {name!r}: {why}")
    return [part for name, part in there.items() if not names or name in names]


# Parts --------------------------------------------------------------------------------------------------------------


def run_one(part: Part, settings: Settings) -> dict[str, Any]:
    """Measure a part here; what goes wrong is told in words."""
    lacking = [name for name in part.needs if importlib.util.find_spec(name) is None]
    if lacking:
        return {"not_run": f"{', '.join(lacking)} is not installed (pip install {' '.join(lacking)})"}
    try:
        return {"figures": part.run(settings)}
    except ImportError as error:
        return {"not_run": one_line(error, 300)}
    except UserError as error:
        return {"failed": one_line(error, 300)}
    except Exception as error:
        traceback.print_exc()
        return {"failed": one_line(f"{type(error).__name__}: {error}", 300)}


def in_own_process(part: Part, argv: Sequence[str], folder: Path, expected: float) -> dict[str, Any]:
    """Measure a part in another process, which leaves what it found in a file."""
    found, log = folder / f"{part.name}.found.json", folder / f"{part.name}.log"
    found.unlink(missing_ok=True)
    command = [sys.executable, __file__, *argv, "--one", part.name, "--out", str(found)]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    with open(log, "w") as file:
        try:
            status = subprocess.run(
                command, stdout=file, stderr=file, env=environment, timeout=300 + 20 * expected, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            return {"failed": f"not done after {clock(300 + 20 * expected)}; see {log}"}
    if not found.is_file():
        return {"failed": f"its process ended with exit code {status}; see {log}"}
    result = json.loads(found.read_text())
    found.unlink()
    return result


def kept_result(file: Path, about: dict[str, Any]) -> dict[str, Any] | None:
    """What an earlier run with the same settings and commit has found."""
    try:
        result = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return result if result.get("about") == about and "figures" in result else None


def run_parts(
    parts: Sequence[Part], settings: Settings, argv: Sequence[str], out: Path, again: bool
) -> dict[str, dict[str, Any]]:
    """All parts one after the other, those that are done from their files, with a line and the time left for each."""
    folder, results = out / "parts", {}
    folder.mkdir(parents=True, exist_ok=True)
    about = {"settings": settings.plain(), "git": git_hash()}
    open_ = [part for part in parts if again or kept_result(folder / f"{part.name}.json", about) is None]
    waiting = sum(part.seconds[settings.key] for part in open_)
    say(f"{len(parts)} parts, {len(parts) - len(open_)} done before; about {clock(waiting)} on a quiet machine")
    spent = guessed = 0.0
    for number, part in enumerate(parts, 1):
        file, expected = folder / f"{part.name}.json", part.seconds[settings.key]
        result = None if part in open_ else kept_result(file, about)
        if result is None:
            start = time.perf_counter()
            result = {**in_own_process(part, argv, folder, expected), "about": about}
            result["seconds"] = time.perf_counter() - start
            write_json(file, result)
            spent, guessed, waiting = spent + result["seconds"], guessed + expected, waiting - expected
        left = waiting * spent / guessed if guessed else waiting
        told = result.get("not_run") or result.get("failed") or f"{len(result['figures'])} figures"
        say(f"[{number}/{len(parts)}] {part.name}: {told}, {clock(result['seconds'])}; about {clock(left)} left")
        results[part.name] = result
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts and write the page.

    Args:
        argv: Arguments; those of the process unless given.

    Returns:
        Exit status: 0, 1 where a part has failed, 2 for wrong use.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parse(argv)
    try:
        settings = settings_of_arguments(args)
        if args.one:
            write_json(args.out, run_one(PARTS[args.one], settings))
            return 0
        parts = chosen_parts(settings, args.parts)
        out = Path(args.out or f"work_dirs/benchmarks/{settings.mode}_{args.device.replace(':', '')}")
        results = run_parts(parts, settings, argv, out, args.again)
        page = {**_about(settings, argv), "parts": _titled(parts, results), "table": table_figures(results)}
        write_json(out / "page.json", page)
        write_atomically(out / "page.md", page_markdown(page).encode())
    except UserError as error:
        print(f"all.py: {error}", file=sys.stderr)
        return 2
    print(out / "page.md")
    return int(any("failed" in result for result in results.values()))


def _titled(parts: Sequence[Part], results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"name": part.name, "title": part.title, **{k: v for k, v in results[part.name].items() if k != "about"}}
        for part in parts
    ]


def _about(settings: Settings, argv: Sequence[str]) -> dict[str, Any]:
    """When, with what, and on which machine."""
    from importlib.metadata import version

    import torch

    from benchmarks.steps.train_step import processor

    on_gpu = settings.device.startswith("cuda")
    return {
        "command": " ".join(["benchmarks/all.py", *argv]),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "git": git_hash(),
        "settings": settings.plain(),
        "machine": {
            "device": torch.cuda.get_device_name() if on_gpu else processor(),
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            "threads": os.environ.get("OMP_NUM_THREADS", "1"),
        },
        "versions": {"python": platform.python_version(), **{p: version(p) for p in ("torch", "timm", "vpeft")}},
    }


if __name__ == "__main__":
    run_main(main)
