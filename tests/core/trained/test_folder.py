"""What stands in a run's folder, and who may write there."""

import multiprocessing
import os
import subprocess
import sys
import time

import pytest

from vpeft.core.trained.folder import ADAPTER, LOCK, checkpoints, clear_remains, hold, set_aside
from vpeft.errors import UserError


def files(folder, *names):
    for name in names:
        (folder / name).write_text("")


def test_the_last_checkpoint_is_the_folders_own(tmp_path):
    assert checkpoints(tmp_path) == []
    files(tmp_path, "epoch_2.pth", "epoch_10.pth", "epoch_9.pth", "best_accuracy_top1_epoch_9.pth", "vit.pth")
    assert [path.name for path in checkpoints(tmp_path)] == ["epoch_10.pth", "epoch_9.pth", "epoch_2.pth"]
    (tmp_path / "last_checkpoint").write_text("/elsewhere/run/epoch_9.pth")  # written before the folder was moved
    assert [path.name for path in checkpoints(tmp_path)] == ["epoch_9.pth", "epoch_2.pth"]
    (tmp_path / "last_checkpoint").write_text("/elsewhere/run/epoch_11.pth")  # not copied
    assert checkpoints(tmp_path)[0].name == "epoch_10.pth"
    (tmp_path / "last_checkpoint").write_bytes(b"\xff\x00")
    assert checkpoints(tmp_path)[0].name == "epoch_10.pth"


def hold_for_long(folder, told):
    with hold(folder):
        told.send(os.getpid())
        time.sleep(60)


def test_a_folder_is_held_by_one_process_and_free_at_its_death(tmp_path):
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    holder = multiprocessing.get_context("fork").Process(target=hold_for_long, args=(tmp_path / "run", theirs))
    holder.start()
    try:
        assert ours.recv() == holder.pid
        message = rf"run is in use: another run trains there .* {holder.pid}\)"
        with pytest.raises(UserError, match=message), hold(tmp_path / "run"):
            pass
    finally:
        holder.kill()
        holder.join()
    with hold(tmp_path / "run"), hold(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK).read_text().split()[1] == str(os.getpid())


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    files(tmp_path, "run")
    with pytest.raises(UserError, match=r"run cannot be written to .*give another --work-dir"), hold(tmp_path / "run"):
        pass


def test_an_earlier_run_is_set_aside_whole(tmp_path):
    files(tmp_path, "mine.py", "weights.pth")
    assert set_aside(tmp_path) is None
    files(tmp_path, ADAPTER, "epoch_3.pth", "last_checkpoint", "result.json", "lora.py")
    (tmp_path / "config_origin.json").write_text('{"config": "lora.py", "steps": []}')
    assert set_aside(tmp_path) == tmp_path / "earlier_1"
    assert {path.name for path in tmp_path.glob("*.*")} == {"mine.py", "weights.pth"}
    assert (tmp_path / "earlier_1" / "lora.py").is_file()
    files(tmp_path, "epoch_1.pth")
    assert set_aside(tmp_path) == tmp_path / "earlier_2"
    (tmp_path / "config_origin.json").write_text("{")
    files(tmp_path, "epoch_1.pth")
    with pytest.raises(UserError, match=r"config_origin\.json is no record of a config"):
        set_aside(tmp_path)


def test_remains_of_dead_processes_go(tmp_path):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    files(tmp_path, f".epoch_1.pth.{dead.stdout.strip()}.tmp", f".epoch_2.pth.{os.getpid()}.tmp", ".notes.tmp")
    clear_remains(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f".epoch_2.pth.{os.getpid()}.tmp", ".notes.tmp"}
