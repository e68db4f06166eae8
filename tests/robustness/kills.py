"""Tools that are killed at random moments, started again, and compared with runs that nothing happened to.

``python tests/robustness/kills.py --seed 0 --kills 50 --terms 10`` prints a table and ends with status 1 where a result
or a weight differs from the unbroken run, or where SIGTERM did not end a run in one line.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from robustness.compare import digest, seeded
from vpeft.apis.benchmark import preload
from vpeft.apis.tune import noah, study
from vpeft.compat.torch_load import read_torch
from vpeft.core.adaptation.storing.adapter_file import read_adapter

ROOT = Path(__file__).parents[2]
#: Imported here, once for all forks.
PRELOADED = (preload, noah, study)
#: Runs of seconds: few images, and a checkpoint after every epoch.
SMALL = ["train_dataloader.batch_size=16", "default_hooks.checkpoint.interval=1", "model.backbone.drop_path_rate=0.2"]
SMALL += ["train_dataloader.dataset.indices=64"]
TEST, VAL = ["test_dataloader.dataset.indices=32"], ["val_dataloader.dataset.indices=32"]
#: The same for what NOAH has found, which has a config of its own.
SUBNET = """
_base_ = ["{root}/configs/mini/noah_nano_vit.py"]
train_cfg = dict(max_epochs=2)
train_dataloader = dict(batch_size=16, dataset=dict(indices=64))
test_dataloader = dict(dataset=dict(indices=32))
default_hooks = dict(checkpoint=dict(interval=1))
"""
LORA = "configs/mini/lora_nano_vit.py"
NOAH = ["noah.epochs=2", "noah.population=4", "noah.mutations=1", "noah.crossovers=1", "noah.parents=2"]
FORKED = ["--workers", "2", "--engine-options", "start=fork", "devices=[]"]
#: A start of seconds that takes as long hangs, in seconds.
HUNG = 300.0


@dataclass(frozen=True)
class Subject:
    """A tool with a folder that it fills.

    Attributes:
        name: Its name.
        command: Its command line for a folder.
        shown: All of a finished folder that must not depend on what happened on the way.
    """

    name: str
    command: Callable[[Path], list[str]]
    shown: Callable[[Path], Any]


def adapters(folder: Path) -> dict[str, str]:
    """Digests of all adapter files: every tensor, and what is said of them."""
    return {
        str(path.relative_to(folder)): digest(read_adapter(path))
        for path in sorted(folder.rglob("adapter*.safetensors"))
    }


def _weights(path: Path) -> str:
    loaded = read_torch(path, "cpu")
    return digest([loaded[key] for key in ("state_dict", "optimizer", "param_schedulers")])


def _json(path: Path, *keys: str) -> dict[str, Any]:
    content = json.loads(path.read_text())
    return {key: content[key] for key in keys or content}


def _train(folder: Path) -> list[str]:
    options = ["train_cfg.max_epochs=4", *SMALL]
    return [
        "tools/train.py",
        LORA,
        "--task",
        "digits",
        "--resume",
        "--work-dir",
        str(folder),
        "--cfg-options",
        *options,
    ]


def _trained(folder: Path) -> Any:
    out = folder / "tested"
    command = ["tools/test.py", LORA, str(folder / "adapter.safetensors"), "--task", "digits", "--work-dir", str(out)]
    process = start([*command, "--cfg-options", *SMALL, *TEST], folder.with_suffix(".test.log"))
    process.join(HUNG)
    assert process.exitcode == 0, _stack(process, folder.with_suffix(".test.log"))[-2000:]
    return adapters(folder), _weights(folder / "epoch_4.pth"), _json(out / "result.json", "metrics", "parameters")


def _tune(folder: Path) -> list[str]:
    grid = ["--grid", "lr=[0.01,0.001]", "rank=2"]
    where = [*FORKED, "--out", str(folder)]
    options = ["--cfg-options", "train_cfg.max_epochs=2", *SMALL]
    return ["tools/tune.py", LORA, "--task", "digits", *grid, *where, *options]


def _tuned(folder: Path) -> Any:
    study = folder / "tuning" / Path(LORA).stem / "digits"
    trials = [_json(path, "number", "options", "state", "value", "looks") for path in sorted(study.glob("trial*.json"))]
    return _json(study / "best.json"), trials, adapters(folder / "work")


def _benchmark(folder: Path) -> list[str]:
    what = ["--methods", "lora", "linear", "--tasks", "digits", "--seeds", "0", "1", "--retries", "3"]
    options = ["--options", "train_cfg.max_epochs=2", *SMALL, *TEST]
    return ["tools/benchmark.py", *what, *FORKED, "--out", str(folder), *options]


def _benchmarked(folder: Path) -> Any:
    keys = ("status", "hash", "setting", "metrics", "main_metric", "parameters", "protocol", "methods", "seed", "task")
    runs = sorted((folder / "runs").rglob("*.json"))
    return {str(path.relative_to(folder)): _json(path, *keys) for path in runs}, adapters(folder / "work")


def _noah(folder: Path) -> list[str]:
    subnet = folder.parent / "subnet_of_seconds.py"
    subnet.write_text(SUBNET.format(root=ROOT))
    options = ["--cfg-options", "train_cfg.max_epochs=2", f"noah.subnet_config={subnet}", *NOAH, *SMALL, *VAL, *TEST]
    return [
        "tools/noah.py",
        "configs/mini/noah_supernet_nano_vit.py",
        "--task",
        "digits",
        "--seed",
        "3",
        "--work-dir",
        str(folder),
        *options,
    ]


def _searched(folder: Path) -> Any:
    sizes = (folder / "subnet.py").read_text().partition("model = ")[2]
    result = _json(folder / "subnet" / "result.json", "metrics", "parameters")
    return _json(folder / "search" / "search.json"), sizes, result, adapters(folder)


SUBJECTS = {
    one.name: one
    for one in (
        Subject("train", _train, _trained),
        Subject("tune", _tune, _tuned),
        Subject("benchmark", _benchmark, _benchmarked),
        Subject("noah", _noah, _searched),
    )
}


def start(command: Sequence[str], log: Path) -> multiprocessing.Process:
    """Run a tool in a fork of this process, where everything is imported."""
    log.touch()  # the fork may be ended before its first line
    process = multiprocessing.get_context("fork").Process(target=_main, args=(list(command), str(log)))
    process.start()
    return process


def _main(command: list[str], log: str) -> None:
    with open(log, "a", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = file
        faulthandler.register(signal.SIGUSR1, file)
        sys.argv = command
        os.chdir(ROOT)
        runpy.run_path(command[0], run_name="__main__")


@dataclass
class Report:
    """What happened to one subject.

    Attributes:
        seconds: Of the unbroken run.
        killed: Moments of SIGKILL, in seconds after a start; ``workers`` of them hit a worker of the tool.
        ended: Moments of SIGTERM.
        folders: How many times a folder was brought to its end.
        faults: What was not as it should be.
    """

    seconds: float = 0.0
    killed: list[float] = field(default_factory=list)
    workers: int = 0
    ended: list[float] = field(default_factory=list)
    folders: int = 0
    faults: list[str] = field(default_factory=list)


def torment(name: str, kills: int, terms: int, seed: int, folder: Path) -> Report:
    """Kill a tool so many times, at moments drawn from the seed, and start it again until it is done."""
    subject, report, rng = SUBJECTS[name], Report(), seeded(seed, name)
    whole = folder / f"{subject.name}-whole"
    begin = time.monotonic()
    process = start(subject.command(whole), log := whole.with_suffix(".log"))
    process.join(HUNG)
    report.seconds = time.monotonic() - begin
    if process.exitcode != 0:
        raise RuntimeError(f"{subject.name} did not come to its end: {_stack(process, log)[-3000:]}")
    expected = subject.shown(whole)
    todo = rng.sample([signal.SIGKILL] * kills + [signal.SIGTERM] * terms, kills + terms)
    number = 0
    while todo:
        number += 1
        work = folder / f"{subject.name}-{number}"
        log = work.with_suffix(".log")
        while not _round(subject, work, log, todo, rng, report):
            pass
        report.folders += 1
        if (found := subject.shown(work)) != expected:
            report.faults.append(
                f"{subject.name}-{number} differs from the unbroken run: {found!r} and {expected!r}"[:2000]
            )
        if "Traceback" in (said := log.read_text()):
            report.faults.append(f"{subject.name}-{number} showed a traceback: {said[-1500:]}")
    return report


def _round(subject: Subject, work: Path, log: Path, todo: list, rng: Any, report: Report) -> bool:
    """One start, and one signal at most; whether the tool came to its end."""
    process, moment = start(subject.command(work), log), rng.uniform(0.0, report.seconds)
    if not todo:
        moment = HUNG
    begin = time.monotonic()
    process.join(moment)
    if process.exitcode is None and todo:
        sign, at = todo.pop(), time.monotonic() - begin
        victim = process.pid
        if sign == signal.SIGKILL and rng.random() < 0.3 and (workers := _children(process.pid)):
            victim = rng.choice(workers)
            report.workers += 1
        with contextlib.suppress(ProcessLookupError):  # a worker may be done meanwhile
            os.kill(victim, sign)
        (report.killed if sign == signal.SIGKILL else report.ended).append(at)
        process.join(HUNG)
        if sign == signal.SIGTERM:
            _check_ending(subject, process.exitcode, log, report)
    if process.exitcode is None:
        report.faults.append(f"{subject.name} hung: {_stack(process, log)[-6000:]}")
    if process.exitcode not in (0, -signal.SIGKILL, 128 + signal.SIGTERM, -signal.SIGTERM):
        report.faults.append(f"{subject.name} ended with {process.exitcode}: {log.read_text()[-1500:]}")
    return process.exitcode == 0


def _stack(process: multiprocessing.Process, log: Path) -> str:
    """What a process has said; where it hangs, with its stack and those of its workers. It is ended."""
    if process.exitcode is None:
        family = [process.pid, *_children(process.pid)]
        for one in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGUSR1)
        process.join(1.0)
        for one in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        process.join()
    return log.read_text()


def _check_ending(subject: Subject, status: int | None, log: Path, report: Report) -> None:
    """SIGTERM ends a tool with status 143 and one line, unless it was done or had not begun."""
    said = log.read_text().splitlines()
    if status == 128 + signal.SIGTERM:
        if not said or not said[-1].startswith("stopped by SIGTERM"):
            report.faults.append(f"{subject.name} said {said[-1:]} at SIGTERM")
    elif status not in (0, -signal.SIGTERM):
        report.faults.append(f"{subject.name} ended with {status} at SIGTERM: {said[-3:]}")


def _children(process: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return []


def table(reports: dict[str, Report]) -> str:
    """Counts by tool, as Markdown."""
    lines = ["| tool | unbroken run, s | SIGKILL | of a worker | SIGTERM | runs finished | differ |"]
    lines.append("| --- |" + " ---: |" * 6)
    for name, one in reports.items():
        counts = [f"{one.seconds:.1f}", len(one.killed), one.workers, len(one.ended), one.folders, len(one.faults)]
        lines.append(f"| {name} | " + " | ".join(map(str, counts)) + " |")
    return "\n".join(lines)


def campaign(
    kills: int, terms: int, seed: int, folder: Path, names: Sequence[str] = tuple(SUBJECTS), workers: int = 2
) -> dict[str, Report]:
    """So many signals in all, shared among the tools, of which some are at work at once."""

    def share(count: int, i: int) -> int:
        return count // len(names) + (i < count % len(names))

    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork")) as pool:
        found = {
            name: pool.submit(torment, name, share(kills, i), share(terms, i), seed, folder)
            for i, name in enumerate(names)
        }
        return {name: one.result() for name, one in found.items()}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=50, help="SIGKILLs in all (%(default)s)")
    parser.add_argument("--terms", type=int, default=10, help="SIGTERMs in all (%(default)s)")
    parser.add_argument("--tools", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.chdir(ROOT)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        reports = campaign(args.kills, args.terms, args.seed, Path(folder), args.tools)
    faults = [fault for one in reports.values() for fault in one.faults]
    for fault in faults:
        print(fault)
    print(table(reports))
    killed, ended = (sum(len(getattr(r, name)) for r in reports.values()) for name in ("killed", "ended"))
    print(f"{killed} SIGKILLs and {ended} SIGTERMs in {time.monotonic() - begin:.0f} s: {len(faults)} faults")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
