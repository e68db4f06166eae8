"""Files are written whole or not at all."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vpeft import UserError
from vpeft.files import read_config, read_json, read_text, write_atomically


def dead_process() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_it_is_written_with_its_folders(tmp_path):
    path = write_atomically(tmp_path / "a" / "b.json", b"1")
    assert path.read_bytes() == b"1"
    assert [file.name for file in path.parent.iterdir()] == ["b.json"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_a_disk_that_takes_nothing_leaves_the_older_file(tmp_path, monkeypatch, number):
    path = write_atomically(tmp_path / "a.json", b"old")

    def fail(self, *args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", fail)
    monkeypatch.setattr(Path, "unlink", fail)  # a read-only disk lets nothing be deleted either
    with pytest.raises(UserError, match=rf"a\.json could not be written .*{os.strerror(number)}"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


def test_a_folder_in_its_place(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(UserError, match=r"a\.json is a folder"):
        write_atomically(tmp_path / "a.json", b"1")
    assert list(tmp_path.iterdir()) == [tmp_path / "a.json"]


def test_a_file_in_its_folders_place(tmp_path):
    (tmp_path / "runs").write_bytes(b"")
    with pytest.raises(UserError, match="could not be written"):
        write_atomically(tmp_path / "runs" / "a.json", b"1")


def test_names_up_to_the_longest(tmp_path):
    longest = tmp_path / ("ü" * 127 + "a")
    assert write_atomically(longest, b"1").read_bytes() == b"1"
    assert list(tmp_path.iterdir()) == [longest]
    for name in ("a" * 256, "a\0b"):
        with pytest.raises(UserError, match="could not be written"):
            write_atomically(tmp_path / name, b"1")


def test_what_killed_processes_left_goes(tmp_path):
    dead, running = dead_process(), os.getppid()
    gone = tmp_path / f".a.json.{dead}.tmp"
    kept = [tmp_path / f".a.json.{running}.tmp", tmp_path / f".b.json.{dead}.tmp", tmp_path / ".a.json.mine.tmp"]
    for file in (gone, *kept):
        file.write_bytes(b"half")
    write_atomically(tmp_path / "a.json", b"1")
    assert not gone.exists()
    assert all(file.exists() for file in kept)
    old = time.time() - 2 * 24 * 3600
    os.utime(kept[0], (old, old))
    write_atomically(tmp_path / "a.json", b"1")
    assert not kept[0].exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', r"list .*x\.json is truncated or no JSON \(the key 'c' stands twice"),
        (b'{"a": ', r"x\.json is truncated or no JSON .*: mend it"),
        (b"[" * 100_000, r"x\.json is truncated or no JSON"),
        (b"9" * 5000, r"x\.json is truncated or no JSON"),
        (b'{\n"\xe4": 1}', r"x\.json:2: byte 0xe4 is not UTF-8"),
    ],
)
def test_json_is_read_whole_or_refused(content, message, tmp_path):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_json(tmp_path / "x.json", "list", broken="mend it")


def test_text_may_begin_with_a_mark(tmp_path):
    (tmp_path / "x.json").write_bytes('\ufeff{"ä": [1, null]}'.encode())
    assert read_json(tmp_path / "x.json", "list") == {"ä": [1, None]}
    with pytest.raises(UserError, match=r"plan .*no does not exist: write it"):
        read_text(tmp_path / "no", "plan", "write it")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.py", b"x = 1\ny = undefined\n", r"config .*a\.py cannot be read: NameError: .* \(.*a\.py, line 2\)"),
        ("a.py", b"x = [1,\n", r"config .*a\.py cannot be read: SyntaxError"),
        ("a.py", b"x = 1\n\n# \xe4\n", r"config .*a\.py:3: byte 0xe4 is not UTF-8"),
        ("a.py", b"x = 1\ny = '\0'\n", r"config .*a\.py:2: it holds a NUL byte"),
        ("a.py", b"_base_ = 'no.py'\n", r"config .*a\.py cannot be read: FileNotFoundError: .*no\.py"),
        ("a.py", b"_base_ = 'a.py'\n", r"config .*a\.py cannot be read: RecursionError"),
        ("a.py", b"x = 1 / 0\n", r"config .*a\.py cannot be read: ZeroDivisionError: .*line 1\)"),
        ("base.py", b"x = 1\n# \xe4\n", r"config .*a\.py: its base .*base\.py:2: byte 0xe4 is not UTF-8"),
        ("base.py", b"x = 1\ny = undefined\n", r"config .*a\.py cannot be read: NameError.*base\.py, line 2\)"),
        ("a.txt", b"x = 1\n", r"config .*a\.txt cannot be read: OSError"),
    ],
)
def test_a_config_that_cannot_be_read_is_named(name, content, message, tmp_path):
    (tmp_path / "a.py").write_text("_base_ = 'base.py'\n")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_config(tmp_path / name.replace("base", "a"))
    assert "\n" not in str(caught.value)
