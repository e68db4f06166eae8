"""Every error of a tool ends in one line with its status."""

import contextlib
import errno
import io
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope, build_from_cfg
from torch.utils.data import DataLoader

from vpeft.apis.commands import ending, explain
from vpeft.apis.commands.ending import run_main, say
from vpeft.apis.commands.stopping import RESUMABLE, Stopped, ending_by_sigterm
from vpeft.apis.config.load import load_config
from vpeft.errors import EXTRAS, TRACEBACK, UserError, one_line, printable

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def own_process(monkeypatch):
    """What the wrapper changes of the process."""
    monkeypatch.setattr("sys.argv", ["tool"])
    monkeypatch.setenv(TRACEBACK, "")  # and not delenv: what the wrapper sets would outlive the test
    monkeypatch.setattr(logging.Handler, "handleError", logging.Handler.handleError)


@pytest.mark.parametrize("late", [0, 0.01])
def test_a_forked_child_ends_by_sigterm_at_once(late):
    """A pool of an evaluation waited forever for one that was ended before its first line."""
    with ending_by_sigterm():
        children = []
        for _ in range(20):
            child = os.fork()
            if not child:
                with contextlib.suppress(BaseException):
                    time.sleep(60)
                os._exit(0)
            time.sleep(late)
            os.kill(child, signal.SIGTERM)
            children.append(child)
        before = signal.getsignal(signal.SIGTERM)
        assert callable(before)
        assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children} == {-signal.SIGTERM}


def ended(main, capsys):
    """Status and lines of the standard error."""
    with pytest.raises(SystemExit) as end:
        run_main(main)
    return end.value.code, capsys.readouterr().err.splitlines()


def raising(error):
    def main():
        raise error

    return main


def system(number, *names):
    return OSError(number, os.strerror(number), *names)


class Sink(torch.nn.Module):
    """A model with one keyword."""

    def __init__(self, width: int = 1) -> None:
        super().__init__()
        if width > 9:
            raise ValueError("too wide")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (UserError("a.yaml: no plan"), "a.yaml: no plan"),
        (UserError("two\nlines \x1b[31mred\x1b[0m \x1b]0;title\x07\a"), "two lines red"),
        (system(errno.ENOENT, "a/b.pth"), "a/b.pth does not exist"),
        (system(errno.EISDIR, "runs"), "runs is a folder"),
        (system(errno.ENOTDIR, "runs/a"), "a part of this path is a file"),
        (system(errno.EEXIST, "work"), "work exists as a file"),
        (system(errno.EACCES, "a.json"), "a.json may not be read or written"),
        (system(errno.EROFS, "/data/a"), "/data/a lies on a read-only file system"),
        (system(errno.ENOSPC, "a.pth"), "no space is left on the disk for a.pth"),
        (system(errno.ENOSPC), "no space is left on the disk"),
        (system(errno.EDQUOT, "a.pth"), "no space is left"),
        (system(errno.ENAMETOOLONG, "aaa"), "name is too long"),
        (system(errno.ELOOP, "a"), "leads to itself"),
        (system(errno.EMFILE), "ulimit -n"),
        (system(errno.EIO, "a"), "Input/output error"),
        (FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"), "set TMPDIR"),
        (RuntimeError("[enforce fail] PytorchStreamWriter failed writing file data/0"), "no space is left"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried"), "batch"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            "not enough memory (CUDA out of memory",
        ),
        (MemoryError(), "not enough memory"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "num_workers=0"),
        (RuntimeError("unable to open shared memory object </torch_1> in read-write mode"), "/dev/shm"),
        (RuntimeError("... failed to listen ... (errno: 98 - Address already in use)"), "MASTER_PORT"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deep"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "save it as UTF-8"),
        (ModuleNotFoundError("No module named 'optuna'", name="optuna"), "pip install 'vpeft[tune]'"),
        (ModuleNotFoundError("No module named 'mmdet.models'", name="mmdet.models"), "pip install 'vpeft[dense]'"),
        (ImportError("libtorch.so", name="decord"), "pip install 'vpeft[video]'"),
        (ModuleNotFoundError("No module named 'umap'", name="umap"), "pip install umap"),
    ],
)
def test_input_and_machine(error, words, capsys):
    status, lines = ended(raising(error), capsys)
    assert status == 2
    (line,) = lines
    assert line.startswith("error: ")
    assert words in line
    assert "\x1b" not in line
    assert "\a" not in line


@pytest.mark.parametrize("error", [KeyError("x"), AssertionError(), ZeroDivisionError("division by zero")])
def test_a_fault_of_ours(error, capsys):
    status, (line,) = ended(raising(error), capsys)
    assert status == 1
    assert line.startswith(f"error: {type(error).__name__}: ")
    assert "test_ending.py, line " in line
    assert "ours" in line
    assert "--traceback" in line


def test_status(capsys):
    assert ended(lambda: None, capsys) == (0, [])
    assert ended(lambda: 1, capsys) == (1, [])
    assert ended(lambda: sys.exit(3), capsys)[0] == 3
    assert ended(raising(KeyboardInterrupt()), capsys) == (130, [RESUMABLE])


def test_a_signal_that_a_library_caught(capsys):
    def main():
        try:
            raise Stopped("stopped by SIGTERM", 143)
        except BaseException:  # as yapf and mmengine do
            raise SyntaxError("Failed to format the config file")  # noqa: B904

    assert ended(main, capsys) == (143, ["stopped by SIGTERM"])


def test_a_signal_while_an_object_is_deleted(capsys):
    class Deleted:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)

    def main():
        thing = Deleted()
        del thing
        time.sleep(5)

    status, (line,) = ended(main, capsys)
    assert status == 143
    assert line.startswith("stopped by SIGTERM")


@pytest.mark.parametrize("way", ["flag", "environment"])
def test_the_traceback_is_shown_when_asked_for(way, capsys, monkeypatch):
    if way == "flag":
        monkeypatch.setattr("sys.argv", ["tool", "config.py", "--traceback", "--task"])
    else:
        monkeypatch.setenv(TRACEBACK, "1")

    def main():
        assert "--traceback" not in sys.argv
        raise UserError("no")

    status, lines = ended(main, capsys)
    monkeypatch.delenv(TRACEBACK)
    assert status == 2
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "error: no"


def test_types_that_are_not_registered(capsys):
    DefaultScope.get_instance("test", scope_name="mmpretrain")
    status, (line,) = ended(lambda: MODELS.build({"type": "VisionTransfromer"}), capsys)
    assert status == 2
    assert "type='VisionTransfromer' is no model of mm" in line
    assert "did you mean 'VisionTransformer'?" in line


def test_a_type_of_a_package_that_is_missing(capsys, monkeypatch):
    DefaultScope.get_instance("test", scope_name="mmdet")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    error = KeyError("MaskRCNN is not in the mmengine::model registry. Please check ...")
    status, (line,) = ended(raising(error), capsys)
    assert status == 2
    assert "pip install 'vpeft[dense]'" in line


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        ({"widht": 2}, "config: Sink takes no 'widht': did you mean 'width'?"),
        ({"zzz": 2}, "config: Sink takes no 'zzz': it takes width."),
        ({"width": 10}, "config: Sink cannot be built: ValueError: too wide"),
        ({"width": "a"}, "config: Sink cannot be built: TypeError: "),
    ],
)
def test_what_a_class_does_not_take(cfg, words, capsys):
    status, (line,) = ended(lambda: build_from_cfg({"type": Sink, **cfg}, MODELS), capsys)
    assert status == 2
    assert words in line


def test_what_the_runner_builds_itself(capsys):
    from mmengine.runner import Runner

    runner = Runner.__new__(Runner)
    runner._train_dataloader = None
    status, (line,) = ended(lambda: runner.build_train_loop({"by_epoch": True, "max_epoch": 3}), capsys)
    assert status == 2
    assert "config: EpochBasedTrainLoop takes no 'max_epoch': did you mean 'max_epochs'?" in line


class Broken(torch.utils.data.Dataset):
    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 1

    def __getitem__(self, i):
        raise self.error


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (UserError("a.jpg is broken"), 2, "error: a.jpg is broken"),
        (system(errno.ENOENT, "a.jpg"), 2, "error: a.jpg does not exist"),
        (KeyError("label"), 1, "KeyError: "),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), 1, "invalid start byte"),
    ],
)
def test_errors_of_data_workers(error, status, words, capsys):
    found, lines = ended(lambda: list(DataLoader(Broken(error), num_workers=1)), capsys)
    assert found == status
    assert words in lines[-1]
    assert "Traceback" not in lines[-1]
    assert not [line for line in lines if "Traceback" in line]


def test_a_log_that_cannot_be_written_is_said_once(tmp_path, capsys):
    class Full(io.StringIO):
        def write(self, text):
            raise system(errno.ENOSPC)

    def main():
        handler = logging.StreamHandler(Full())
        for _ in range(3):
            handler.emit(logging.LogRecord("a", logging.INFO, "a", 1, "text", (), None))

    status, (line,) = ended(main, capsys)
    assert status == 0
    assert line.startswith("warning: a log cannot be written: ")


def printing(stream, monkeypatch, capsys):
    """Status and lines of a tool that prints to ``stream``."""
    monkeypatch.setattr("sys.stdout", stream)
    try:
        return ended(lambda: print("x" * 100), capsys)
    finally:
        with contextlib.suppress(OSError):
            stream.close()


def test_a_reader_that_has_gone(monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    assert printing(os.fdopen(writer, "w"), monkeypatch, capsys) == (141, [])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_under_the_output(monkeypatch, capsys):
    status, (line,) = printing(os.fdopen(os.open("/dev/full", os.O_WRONLY), "w"), monkeypatch, capsys)
    assert status == 2
    assert "no space is left on the disk for what is written" in line


AMONG_OTHERS = """
import atexit, sys, torch
from vpeft.apis.commands.ending import run_main

class Late:
    def __del__(self):
        print("the interpreter ended")

late = Late()
atexit.register(print, "what was registered has run")

def main():
    torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
    print("done")
    return int(sys.argv[2])

run_main(main)
"""


@pytest.mark.parametrize("status", [0, 1])
def test_a_process_among_others_skips_the_end_of_the_interpreter(status, tmp_path):
    call = [sys.executable, "-c", AMONG_OTHERS, str(tmp_path / "store"), str(status)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(call, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (found.returncode, found.stderr) == (status, "")
    assert found.stdout.splitlines() == ["done", "what was registered has run"]


def test_what_tools_say(capsys):
    say("a\x1b[31m\nb", 3, Path("c\r"))
    say("d\x07", to_error=True)
    assert capsys.readouterr() == ("a\nb\n3\nc \n", "d\n")


def test_tools_print_through_the_wrapper():
    """A bare print would show what stands in a file or a name as it is."""
    for tool in (ROOT / "tools").rglob("*.py"):
        assert "run_main(main)" in tool.read_text(), tool
    for file in [*(ROOT / "tools").rglob("*.py"), *(ROOT / "vpeft/apis/commands/words").rglob("*.py")]:
        assert not re.search(r"(?<![.\w])print\(", file.read_text()), file
        assert "ArgumentParser" not in file.read_text(), file


def test_printable():
    assert printable("a\x1b[31mb\x1b]8;;http://x\x1b\\c\x1b]0;open") == "abc]0;open"
    assert printable("a\r\n\tb\x00\x9b\u202ec\u2028d") == "a  \x20bc d"
    assert printable("a\nb\r", lines=True) == "a\nb "
    assert printable(b"\xff.json".decode("utf-8", "surrogateescape")) == "\\udcff.json"
    assert printable("ü ° 日本 👩‍🔬") == "ü ° 日本 👩‍🔬"
    assert len(one_line("x" * 10_000)) == 4000


def test_every_extra_is_known():
    """The packages that an extra brings, by the names under which they are imported."""
    names = {"onedl-mmdetection": "mmdet", "onedl-mmsegmentation": "mmseg", "mmaction2": "mmaction"}
    brought = {}
    for extra in ("dense", "video", "tune", "ray", "slurm", "optional", "export"):
        for line in (ROOT / f"requirements/{extra}.txt").read_text().splitlines():
            if package := line.split("#")[0].strip():
                brought[names.get(package, package)] = extra
    assert brought == EXTRAS


def test_the_statuses_are_those_of_the_docs():
    assert (ending.GONE, ending.STOPPED, explain.INPUT, explain.OURS) == (141, 130, 2, 1)


def test_a_config_whose_package_is_missing(tmp_path, monkeypatch):
    config = tmp_path / "a.py"
    config.write_text("custom_imports = dict(imports=['mmdet.nowhere'])\nmodel = dict(type='A')\n")
    monkeypatch.setitem(sys.modules, "mmdet.nowhere", None)  # as where it is not installed
    with pytest.raises(UserError, match=rf"config {config} cannot be read: mmdet .* pip install 'vpeft\[dense\]'"):
        load_config(config)
