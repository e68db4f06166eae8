"""Every tool on bad folders: read-only, full, with a file in its place, and without a folder for temporary files.

Each ends in one line with status 2 and leaves what stood there as it was. Folders are mounted in a name space of a
forked process's own, so that nothing outside it changes; where that is not allowed, these tests are skipped.
"""

import ctypes
import multiprocessing
import os
import re
import runpy
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest
import torch
from support.results import result, store
from support.runs import write_run

from robustness.compare import digest
from vpeft.core.datasets.embedded.scenes import SPLITS
from vpeft.core.trained.logits import Logits, write_logits

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs/mini/lora_nano_vit.py")
NOAH = str(ROOT / "configs/mini/noah_supernet_nano_vit.py")
SHORT = ["train_cfg.max_epochs=1", "train_dataloader.batch_size=500"]
#: How a folder ``$1`` comes to be bad. What stands in it beforehand is in ``$2``.
STATES = {
    "read-only": 'mount -t tmpfs -o size=1m tmpfs "$1"; cp -r "$2"/. "$1"; mount -o remount,ro "$1"',
    "full": 'mount -t tmpfs -o size=64k tmpfs "$1"; cp -r "$2"/. "$1"; head -c 1m /dev/zero > "$1/filled" || true',
    "a file in its place": 'rm -r "$1"; echo old > "$1"',
    "no temporary folder": "for f in /tmp /var/tmp /dev/shm; do mount --bind $f $f; mount -o remount,ro,bind $f; done; "
    'mount -t tmpfs -o size=1m tmpfs "$1"; cp -r "$2"/. "$1"; mount -o remount,ro "$1"',
}
#: What the line says of each.
SAID = {
    "read-only": "[Rr]ead-only",
    "full": "[Nn]o space|disk is full",
    "a file in its place": "[Nn]ot a directory|is a file|as a file",
    "no temporary folder": "[Rr]ead-only|temporary",
}
#: Arguments of every tool that writes; ``OUT`` is below the bad folder, the other words stand for what a tool reads.
TOOLS = {
    "train.py": [CONFIG, "--task", "digits", "--work-dir", "OUT", "--cfg-options", *SHORT],
    "test.py": [CONFIG, "RUN/adapter.safetensors", "--task", "digits", "--work-dir", "OUT"],
    "merge.py": [CONFIG, "RUN/adapter.safetensors", "OUT/merged.pth", "--task", "digits"],
    "config.py": [CONFIG, "--out", "OUT/config.py"],
    "tune.py": [CONFIG, "--task", "digits", "--trials", "1", "--out", "OUT", "--cfg-options", *SHORT],
    "benchmark.py": ["--configs", CONFIG, "--tasks", "digits", "--seeds", "0", "--out", "OUT", "--options", *SHORT],
    "noah.py": [NOAH, "--task", "digits", "--work-dir", "OUT"],
    "pretrain_nano.py": ["vit", "--epochs", "1", "--images", "10", "--batch-size", "5", "--out", "OUT"],
    "data.py": ["sheet", "OUT/sheet.png"],
    "methods_page.py": ["--docs", "OUT", "--configs", str(ROOT / "configs")],
    "leaderboard.py": ["RESULTS", "--out", "OUT"],
    "results.py": ["RESULTS", "--plots", "OUT"],
    "visualization/tsne.py": ["RUN", "--count", "20", "--perplexity", "5", "--no-cache", "--out", "OUT/tsne"],
    "visualization/attention.py": ["RUN", "--count", "1", "--out", "OUT/attention"],
    "visualization/predictions.py": ["SCENES", "--count", "1", "--out", "OUT/predictions.png"],
    "analysis/inside.py": ["RUN", "--samples", "8", "--out", "OUT"],
    "analysis/wise.py": ["RUN", "--shifts", "--alphas", "0", "1", "--out", "OUT"],
    "analysis/shifts.py": ["digits", "OUT/shifts.png"],
    "analysis/similarity.py": ["LOGITS/0", "LOGITS/1", "--out", "OUT"],
}
#: Only these write nothing.
SILENT = {"list.py", "params.py"}
#: Older files that a tool would replace.
OLD = ["merged.pth", "config.py", "sheet.png", "methods.md", "tsne.png", "shifts.png", "predictions.png", "wise.json"]
OLD += ["adapter.safetensors", "result.json", "index.html", "leaderboard.md", "similarity.json", "inside.json"]


def _mounted(state, folder, before):
    """Make a folder bad for this process alone."""
    if ctypes.CDLL(None, use_errno=True).unshare(0x00020000) != 0:  # CLONE_NEWNS
        raise OSError(ctypes.get_errno(), "unshare")
    script = f"set -e; mount --make-rprivate /; {STATES[state]}"
    subprocess.run(["bash", "-c", script, "bash", folder, before], check=True, capture_output=True)


def _contents(folder):
    """What stands in a folder, or in the file in its place; a training may set an earlier run's files aside."""
    files = [folder] if folder.is_file() else [file for file in folder.rglob("*") if file.is_file()]
    return {(file.name, digest(file.read_bytes())) for file in files}


def _run(tool, arguments, state, folder, before, log, pipe):
    """A tool, in a process of its own; tells whether mounting went well, its status, and whether anything changed."""
    try:
        _mounted(state, folder, before)
    except (OSError, subprocess.CalledProcessError) as error:
        pipe.send(f"no name space of its own may be made here ({error})")
        return
    old = _contents(folder)
    for stream in (1, 2):
        os.dup2(log, stream)
    sys.stdout = sys.stderr = os.fdopen(log, "w", buffering=1)
    os.environ.pop("TMPDIR", None)
    tempfile.tempdir = None
    forkserver._forkserver.__init__()  # one that an earlier test has started is no child of this process
    os.chdir(folder if state == "no temporary folder" else ROOT)
    sys.argv = [f"tools/{tool}", *arguments]
    status = None
    try:
        runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")
    except SystemExit as end:
        status = end.code
    sys.stdout.flush()
    pipe.send((status, old <= _contents(folder)))
    os._exit(0)  # what the interpreter's end would do belongs to the tests' process


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """What tools read, by the words that stand for it."""
    root = tmp_path_factory.mktemp("read")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for split in SPLITS:
            patch.setitem(SPLITS, split, 4)
        write_run(root / "RUN", samples=30)
        options = {f"{part}_dataloader.dataset.data_root": str(root / "drawn") for part in ("train", "val", "test")}
        write_run(root / "SCENES", "lora_nano_swin_segmentation", None, options)
    store(root / "RESULTS", *(result("LoRA", "digits", seed, 0.5 + seed / 10) for seed in range(3)))
    for i in range(2):
        scores = torch.from_numpy(np.random.default_rng(i).normal(size=(60, 3))).float()
        samples = [str(n) for n in range(60)]
        write_logits(
            Logits(scores, torch.arange(60) % 3, samples, {}, f"run {i}"), root / f"LOGITS/{i}/logits.safetensors"
        )
    return root


def ends_in_one_line(tool, state, tmp_path, read=Path("/nowhere")):
    folder, before = tmp_path / "bad", tmp_path / "before"
    folder.mkdir()
    (before / "out").mkdir(parents=True)
    for name in OLD:
        (before / "out" / name).write_text("old")
    words = {"OUT": folder / "out", **{word: read / word for word in ("RUN", "RESULTS", "SCENES", "LOGITS")}}
    arguments = [re.sub("^(OUT|RUN|RESULTS|SCENES|LOGITS)", lambda m: str(words[m[1]]), one) for one in TOOLS[tool]]
    log = os.open(tmp_path / "log", os.O_CREAT | os.O_RDWR)
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(tool, arguments, state, folder, before, log, theirs))
    process.start()
    theirs.close()
    process.join(300)
    assert process.exitcode is not None, "it hung"
    said = (tmp_path / "log").read_text()
    told = mine.recv() if mine.poll() else None
    if isinstance(told, str):
        pytest.skip(told)
    assert told is not None, said[-2000:]
    status, unchanged = told
    assert "Traceback" not in said
    assert status == 2, said[-2000:]
    line = said.splitlines()[-1]
    assert line.startswith("error: ")
    assert re.search(SAID[state], line), line
    assert unchanged


@pytest.mark.parametrize("state", STATES)
def test_a_config_is_not_written(state, tmp_path):
    ends_in_one_line("config.py", state, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool(tool, state, tmp_path, read):
    ends_in_one_line(tool, state, tmp_path, read)


def test_every_tool_is_here():
    assert {str(file.relative_to(ROOT / "tools")) for file in (ROOT / "tools").rglob("*.py")} == {*TOOLS, *SILENT}
