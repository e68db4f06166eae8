"""Every tool on a read-only folder, on a full one, and without a folder for temporary files: one line, status 2.

Folders are mounted in a name space of the process's own, so that nothing outside it changes; where that is not allowed,
the tests are skipped.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs/mini/lora_nano_vit.py")
SHORT = ["train_cfg.max_epochs=1", "train_dataloader.batch_size=500"]
#: How a folder comes to be bad: a script that finds it as ``$1`` and runs what follows.
STATES = {
    "read-only": 'mount -t tmpfs -o size=1m tmpfs "$1" && mount -o remount,ro "$1"',
    "full": 'mount -t tmpfs -o size=4k tmpfs "$1" && { head -c 4096 /dev/zero > "$1/filled"; }',
    "no temporary folder": "for f in /tmp /var/tmp; do mount --bind $f $f && mount -o remount,ro,bind $f; done; "
    'mount -t tmpfs -o size=9m,ro tmpfs "$1" && cd "$1"',
}
#: Arguments of every tool that writes; ``OUT`` is below the bad folder, ``RUN`` a trained run.
TOOLS = {
    "train.py": [CONFIG, "--task", "digits", "--work-dir", "OUT", "--cfg-options", *SHORT],
    "test.py": [CONFIG, "RUN/adapter.safetensors", "--task", "digits", "--work-dir", "OUT"],
    "merge.py": [CONFIG, "RUN/adapter.safetensors", "OUT/merged.pth", "--task", "digits"],
    "config.py": [CONFIG, "--out", "OUT/config.py"],
    "tune.py": [CONFIG, "--task", "digits", "--trials", "1", "--out", "OUT", "--cfg-options", *SHORT],
    "benchmark.py": ["--methods", "lora", "--tasks", "digits", "--seeds", "0", "--out", "OUT", "--options", *SHORT],
    "noah.py": [str(ROOT / "configs/mini/noah_nano_vit.py"), "--task", "digits", "--work-dir", "OUT"],
    "pretrain_nano.py": ["vit", "--epochs", "0", "--images", "10", "--out", "OUT"],
    "data.py": ["sheet", "OUT/sheet.png"],
    "methods_page.py": ["--docs", "OUT"],
    "visualization/tsne.py": ["RUN", "--count", "50", "--no-cache", "--out", "OUT/tsne"],
    "visualization/attention.py": ["RUN", "--count", "1", "--out", "OUT/attention"],
    "analysis/inside.py": ["RUN", "--samples", "8", "--out", "OUT"],
    "analysis/wise.py": ["RUN", "--shifts", "--alphas", "0", "1", "--out", "OUT"],
    "analysis/shifts.py": ["digits", "OUT/shifts.png"],
}


def started(tool, arguments, cwd=ROOT, before=()):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    env = {key: value for key, value in env.items() if key not in ("TORCHINDUCTOR_CACHE_DIR", "TMPDIR")}
    command = [*before, sys.executable, "-B", str(ROOT / "tools" / tool), *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=900, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    done = started("train.py", [CONFIG, "--task", "digits", "--work-dir", str(folder), "--cfg-options", *SHORT])
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def ends_in_one_line(tool, state, folder, run=""):
    allowed = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
    if not allowed:
        pytest.skip("no name space of its own may be made here")
    folder.mkdir()
    before = ["unshare", "-m", "bash", "-c", f'set -e; {STATES[state]}; shift; exec "$@"', "bash", str(folder)]
    arguments = [one.replace("OUT", f"{folder}/out").replace("RUN", str(run)) for one in TOOLS[tool]]
    done = started(tool, arguments, before=before)
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    assert done.returncode == 2, said[-2000:]
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert not list(folder.iterdir())


@pytest.mark.parametrize("state", ["read-only", "no temporary folder"])
def test_a_config_is_not_written(state, tmp_path):
    ends_in_one_line("config.py", state, tmp_path / "bad")


@pytest.mark.slow
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool(tool, state, tmp_path, run):
    ends_in_one_line(tool, state, tmp_path / "bad", run)


def test_every_tool_that_writes_is_here():
    silent = {"list.py", "params.py", "results.py", "leaderboard.py", "visualization/predictions.py"}
    silent |= {"analysis/similarity.py"}
    assert {str(file.relative_to(ROOT / "tools")) for file in (ROOT / "tools").rglob("*.py")} == {*TOOLS, *silent}
