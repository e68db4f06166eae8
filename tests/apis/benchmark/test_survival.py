"""Real runs: killed at random moments, on Ray with a lost worker, through submitit; all end with the same results."""

import importlib.util
import json
import multiprocessing
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vpeft.apis.benchmark.plan import Plan
from vpeft.apis.benchmark.run_plan import benchmark
from vpeft.apis.jobs.engines.build import build_engine
from vpeft.apis.jobs.scheduler import run_jobs
from vpeft.apis.results.costs import costs_of
from vpeft.apis.results.files import read_results

ROOT = Path(__file__).parents[3]
FAST = {
    "train_cfg.max_epochs": 2,
    "train_dataloader.batch_size": 250,
    "default_hooks.checkpoint.interval": 1,
    "model.backbone.drop_path_rate": 0.2,
}
#: Forked from here, where everything is imported: a test need not wait for imports again.
FORKED = {"workers": 2, "devices": [], "start": "fork"}

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _root(monkeypatch):
    monkeypatch.chdir(ROOT)


def plan(seeds: int = 3, **fields) -> Plan:
    return Plan(["linear", "lora"], tasks=["digits"], seeds=list(range(seeds)), options=FAST, **fields)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The folder of a benchmark that nothing happened to."""
    root = tmp_path_factory.mktemp("unbroken")
    before = os.getcwd()
    os.chdir(ROOT)
    assert benchmark(plan(), str(root), engine_options=FORKED) == []
    os.chdir(before)
    return root


def shown(root: Path) -> dict:
    """What results say, by the run's name, without times."""
    runs = read_results(root).runs
    keys = ("status", "hash", "setting", "metrics", "main_metric", "parameters", "protocol", "methods", "seed", "task")
    return {str(path.relative_to(root)): {key: r[key] for key in keys} for path, r in runs.items()}


def same_weights(a: Path, b: Path) -> bool:
    files = sorted(path.relative_to(a) for path in a.rglob("adapter.safetensors"))
    pairs = [(load_file(a / file), load_file(b / file)) for file in files]
    return bool(files) and all(torch.equal(x[key], y[key]) for x, y in pairs for key in x)


def test_results_of_the_engine_are_those_of_a_plain_run(unbroken, tmp_path):
    """The isolated job is the job: the same metrics as in this process."""
    (job, *_) = [job for job in plan(1).jobs(str(tmp_path)) if job.method == "LoRA"]
    job.run()
    mine, theirs = job.result(), read_results(unbroken).runs[unbroken / job.file.relative_to(tmp_path)]
    assert mine["metrics"] == theirs["metrics"]
    assert mine["cost"]["saved_bytes"] == theirs["cost"]["saved_bytes"] > 1_000_000
    assert mine["cost"]["adapter_bytes"] == os.path.getsize(job.work_dir / "adapter.safetensors")
    assert mine["cost"]["inference_ratio"] > 0
    assert not list(job.work_dir.glob("*.pth"))


def test_a_cost_that_cannot_be_measured_loses_no_run(tmp_path, monkeypatch):
    def too_large(*_):
        raise RuntimeError("not enough memory: you tried to allocate 99 bytes")

    monkeypatch.setattr("vpeft.apis.benchmark.run_job.training_cost", too_large)
    (job,) = Plan(["linear"], tasks=["digits"], seeds=[0], options=FAST).jobs(str(tmp_path))
    job.run()
    (result,) = read_results(tmp_path).runs.values()
    assert result["status"] == "ok"
    assert result["cost"]["inference_ratio"] > 0
    assert costs_of(result)["peak_bytes"] is None
    assert "allocate 99 bytes" in result["cost"]["unmeasured"]
    assert "allocate 99 bytes" in next(job.work_dir.glob("*/*.log")).read_text()


def test_a_run_that_went_on_does_not_tell_a_part_of_its_time(tmp_path):
    (job,) = Plan(["linear"], tasks=["digits"], seeds=[0], options=FAST, keep_checkpoints=True).jobs(str(tmp_path))
    job.run()
    first = job.result()
    assert first["cost"]["train_seconds"] > 0
    job.file.unlink()
    job.run()
    second = job.result()
    assert second["cost"]["train_seconds"] is None
    assert second["metrics"] == first["metrics"]


def test_killed_five_times_it_ends_as_if_it_was_not(unbroken, tmp_path):
    moments = random.Random(0)
    finished: dict[Path, bytes] = {}
    for kill in range(5):
        process = multiprocessing.get_context("fork").Process(
            target=benchmark, args=(plan(), str(tmp_path)), kwargs={"engine_options": FORKED}
        )
        process.start()
        # Some time after so many runs have been finished in all.
        deadline = time.time() + 120
        while len(list(tmp_path.rglob("runs/**/seed*.json"))) < kill and time.time() < deadline:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.8))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL, "the benchmark was done before it could be killed"
        finished |= {path: path.read_bytes() for path in tmp_path.rglob("runs/**/seed*.json")}
    assert 4 <= len(finished) < 6
    assert benchmark(plan(), str(tmp_path), engine_options=FORKED) == []
    assert all(path.read_bytes() == content for path, content in finished.items()), "a finished run was run again"
    assert shown(tmp_path) == shown(unbroken)
    assert len(shown(tmp_path)) == 6
    assert same_weights(tmp_path / "work", unbroken / "work")


def test_ray_gives_the_same_results_and_runs_a_lost_job_again(unbroken, tmp_path):
    """In a process of its own, through the tool: Ray's threads are no company for forks."""
    pytest.importorskip("ray")
    options = [f"{key}={value}" for key, value in FAST.items()]
    command = [sys.executable, "tools/benchmark.py", "--methods", "lora", "--tasks", "digits", "--seeds", "0", "1"]
    command += ["--engine", "ray", "--workers", "2", "--out", str(tmp_path / "out"), "--options", *options]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log)
    victim = None
    while victim is None and process.poll() is None:
        # In the middle: after an epoch, before the result.
        begun = [mark for mark in tmp_path.rglob(".started") if (mark.parent / "epoch_1.pth").exists()]
        victim = next((int(mark.read_text().split()[1]) for mark in begun), None)
        time.sleep(0.005)
    assert victim is not None, (tmp_path / "log").read_text()
    os.kill(victim, signal.SIGKILL)
    process.wait(300)
    said = (tmp_path / "log").read_text()
    assert process.returncode == 0, said
    assert "attempt 1 failed, another follows" in said
    expected = {name: r for name, r in shown(unbroken).items() if "lora" in name and r["seed"] < 2}
    assert shown(tmp_path / "out") == expected
    assert len(expected) == 2
    assert same_weights(tmp_path / "out" / "work", unbroken / "work")
    assert "max_epochs=2, batch_size=250) | 12,288 |" in said


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Address of a Ray cluster that another process has started, which asks for a token."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
    command += ["--node-ip-address=127.0.0.1", "--num-cpus=2", "--include-dashboard=false"]
    with open(tmp_path / "head.log", "w") as log:
        head = subprocess.Popen(command, stdout=log, stderr=log)
    deadline = time.time() + 120
    while "Ray runtime started" not in (tmp_path / "head.log").read_text():
        waiting = head.poll() is None and time.time() < deadline
        assert waiting, (tmp_path / "head.log").read_text()
        time.sleep(0.2)
    yield f"127.0.0.1:{port}"
    head.terminate()
    head.wait(60)


def test_a_running_ray_cluster_gives_the_same_results(unbroken, tmp_path, cluster, monkeypatch):
    options = [f"{key}={value}" for key, value in FAST.items()]
    command = [sys.executable, "tools/benchmark.py", "--methods", "lora", "--tasks", "digits", "--seeds", "0", "1"]
    command += ["--engine", "ray", "--address", cluster, "--out", str(tmp_path / "out"), "--options", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert shown(tmp_path / "out") == {n: r for n, r in shown(unbroken).items() if "lora" in n and r["seed"] < 2}
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    refused = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert refused.returncode == 2, refused.stderr
    assert "Traceback" not in refused.stderr
    assert f"engine ray: no cluster at {cluster}" in refused.stderr
    assert "that this shell has it" in refused.stderr


def test_submitit_gives_the_same_results(unbroken, tmp_path):
    if importlib.util.find_spec("submitit") is None:  # importing it is the engine's matter
        pytest.skip("submitit is not installed")
    jobs = plan(1).jobs(str(tmp_path))
    with build_engine("slurm", cluster="local", folder=str(tmp_path / "slurm"), workers=2, minutes=5) as engine:
        assert run_jobs(jobs, engine, quiet=True) == []
    assert shown(tmp_path) == {name: r for name, r in shown(unbroken).items() if r["seed"] == 0}


def test_tuned_settings_are_used_and_named(tmp_path):
    fast = {**FAST, "train_cfg.max_epochs": 1}
    tuned = Plan(["lora"], tasks=["digits"], seeds=[0], options=fast, tune={"trials": 2, "space": {"rank": [1, 2]}})
    assert benchmark(tuned, str(tmp_path), engine_options=FORKED) == []
    (run,) = read_results(tmp_path).runs.values()
    best = json.loads((tmp_path / "tuning/lora_nano_vit/digits/best.json").read_text())
    assert run["tuning"] == best["tuning"]
    assert run["methods"][0]["rank"] == best["options"]["model.backbone.method.rank"]
    assert run["protocol"]["faults"] == []
    assert run["train_split"] == "train800val200"
