"""Working off jobs: retries, failures, lost workers; without training."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from vpeft import UserError
from vpeft.apis.jobs.engines.build import ENGINES, build_engine
from vpeft.apis.jobs.engines.local import LocalEngine
from vpeft.apis.jobs.scheduler import clock, run_jobs
from vpeft.core.trained.folder import hold


@dataclass
class Work:
    """A job that fails as often as ``fails`` says before it succeeds, in the way of ``how``."""

    root: str
    name: str
    fails: int = 0
    how: str = "raise"

    @property
    def folder(self) -> Path:
        return Path(self.root)

    def done(self) -> bool:
        return (self.folder / f"{self.name}.ok").exists()

    def run(self) -> None:
        with open(self.folder / f"{self.name}.attempts", "a") as file:
            file.write(f"{os.environ.get('CUDA_VISIBLE_DEVICES', '')}\n")
        if self.attempts() <= self.fails:
            print("about to fail")
            if self.how == "raise":
                raise RuntimeError("it broke")
            if self.how == "user":
                raise UserError("wrong use")
            if self.how == "long":
                raise RuntimeError("a key that does not fit, " * 40_000)
            if self.how == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            return
        (self.folder / f"{self.name}.ok").touch()

    def attempts(self) -> int:
        return len((self.folder / f"{self.name}.attempts").read_text().splitlines())

    def fail(self, error: str) -> None:
        (self.folder / f"{self.name}.failed").write_text(error)


@pytest.fixture
def engine():
    with LocalEngine(workers=2, devices=[], start="fork") as engine:
        yield engine


def test_failures_are_tried_again_recorded_and_stop_nothing(tmp_path, engine, capsys):
    root = str(tmp_path)
    jobs = [Work(root, "good"), Work(root, "once", 1), Work(root, "twice", 2), Work(root, "user", 9, "user")]
    jobs += [Work(root, "lost", 1, "die"), Work(root, "dead", 9, "die"), Work(root, "silent", 9, "nothing")]
    failed = run_jobs(jobs, engine, retries=1)
    assert sorted(job.name for job in failed) == ["dead", "silent", "twice", "user"]
    assert [job.attempts() for job in jobs] == [1, 2, 2, 1, 2, 2, 2]
    assert "RuntimeError: it broke" in (tmp_path / "twice.failed").read_text()
    assert (tmp_path / "user.failed").read_text() == "wrong use"
    assert "exit code -9: about to fail" in (tmp_path / "dead.failed").read_text()
    assert "left no result" in (tmp_path / "silent.failed").read_text()
    assert "lost: attempt 1 failed, another follows" in capsys.readouterr().err


def test_an_error_of_any_length_ends_a_job(tmp_path, engine):
    """More than a pipe holds, as torch's list of all keys of a file that do not fit."""
    assert run_jobs([job := Work(str(tmp_path), "a", 9, "long")], engine, retries=0, quiet=True) == [job]
    assert (tmp_path / "a.failed").read_text().count("a key that does not fit, ") >= 40_000


def test_what_is_done_is_not_run(tmp_path, engine):
    (tmp_path / "a.ok").touch()
    run_jobs([Work(str(tmp_path), "a"), Work(str(tmp_path), "b")], engine, quiet=True)
    assert not (tmp_path / "a.attempts").exists()
    assert (tmp_path / "b.ok").exists()


def test_jobs_follow_from_jobs(tmp_path, engine):
    def follow(job):
        number = int(job.name) + 1
        return [Work(str(tmp_path), str(number))] if number < 4 else []

    assert run_jobs([Work(str(tmp_path), "0")], engine, follow=follow, total=4, quiet=True) == []
    assert sorted(p.name for p in tmp_path.glob("*.ok")) == ["0.ok", "1.ok", "2.ok", "3.ok"]


def test_every_worker_has_a_device_of_its_own(tmp_path):
    with LocalEngine(devices=[3, 5], start="fork") as engine:
        assert engine.slots == 2
        run_jobs([Work(str(tmp_path), str(i)) for i in range(6)], engine, quiet=True)
    devices = [(tmp_path / f"{i}.attempts").read_text().strip() for i in range(6)]
    assert set(devices) == {"3", "5"}


def test_workers_die_with_their_engine(tmp_path):
    """SIGKILL of the process that holds the engine ends its workers."""
    import multiprocessing

    def hold() -> None:
        engine = LocalEngine(workers=1, devices=[], start="fork")
        engine.submit([Sleeper(str(tmp_path), "sleeper")])
        engine.finished(60)

    holder = multiprocessing.get_context("fork").Process(target=hold)
    holder.start()
    pid = wait_for(lambda: (tmp_path / "pid").exists() and int((tmp_path / "pid").read_text() or 0))
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    wait_for(lambda: not alive(pid))


class Sleeper(Work):
    def run(self) -> None:
        (self.folder / "pid").write_text(str(os.getpid()))
        time.sleep(60)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds=30):
    deadline = time.time() + seconds
    while not (value := condition()):
        assert time.time() < deadline
        time.sleep(0.02)
    return value


def test_a_lock_is_free_once_its_holder_is_dead(tmp_path):
    import multiprocessing

    def work() -> None:
        with hold(tmp_path):
            (tmp_path / "held").touch()
            time.sleep(60)

    holder = multiprocessing.get_context("fork").Process(target=work)
    holder.start()
    wait_for((tmp_path / "held").exists)
    os.kill(holder.pid, signal.SIGKILL)
    with hold(tmp_path, wait=True):
        holder.join()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("locall", {}, "did you mean 'local'"),
        ("local", {"adress": 1}, "has no option 'adress'"),
        ("ray", {"adress": 1}, "did you mean 'address'"),
        ("local", {"workers": -1}, "at least 1"),
    ],
)
def test_wrong_engines_say_what_is_known(name, options, message):
    assert set(ENGINES) == {"local", "ray", "slurm"}
    with pytest.raises(UserError, match=message):
        build_engine(name, **options)


def test_slurm_that_is_not_there_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="engine slurm"):
        build_engine("slurm", folder=str(tmp_path))


def test_clock():
    assert [clock(None), clock(59.6), clock(3725)] == ["unknown", "0:01:00", "1:02:05"]


def test_submitit_leaves_the_logs_of_this_process_open(tmp_path):
    """Its import would close them: what is logged afterwards is lost, and mmengine's ``init_weights`` fails."""
    code = f"""
import logging, os
log = logging.FileHandler({str(tmp_path / "log")!r}, "w")
from vpeft.apis.jobs.engines.build import build_engine
build_engine("slurm", cluster="local", folder={str(tmp_path)!r})
logging.getLogger("run").addHandler(log)
logging.getLogger("run").warning("goes on")
assert "SUBMITIT_LOG_LEVEL" not in os.environ
"""
    if importlib.util.find_spec("submitit") is None:
        pytest.skip("submitit is not installed")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    assert (tmp_path / "log").read_text() == "goes on\n"
