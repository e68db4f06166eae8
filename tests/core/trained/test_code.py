"""Which code a result says it is of."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from vpeft.core.trained import code


def git(folder, *words):
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A checkout of a package, which the module takes for its own."""
    (tmp_path / "vpeft").mkdir()
    (tmp_path / "vpeft" / "__init__.py").write_text("a = 1\n")
    monkeypatch.setattr(code, "HERE", tmp_path / "vpeft")
    code.code_hash.cache_clear()
    yield tmp_path
    code.code_hash.cache_clear()


def test_a_checkout_says_its_commit_and_whether_files_were_changed(package):
    assert code.git_hash() is None
    git(package, "init")
    git(package, "add", "vpeft")
    git(package, "commit", "-m", "first")
    first = code.git_hash()
    assert len(first) == 40
    (package / "other.txt").write_text("not ours to tell")
    assert code.git_hash() == first
    (package / "vpeft" / "__init__.py").write_text("a = 2\n")
    assert code.git_hash() == f"{first}+"


def test_asking_leaves_the_checkout_as_it_is(package):
    """The index is not refreshed: a run that is killed meanwhile would leave its lock, and the next commit fails."""
    git(package, "init")
    git(package, "add", "vpeft")
    git(package, "commit", "-m", "first")
    os.utime(package / "vpeft" / "__init__.py", (1, 1))
    index = (package / ".git" / "index").read_bytes()
    assert len(code.git_hash()) == 40
    assert (package / ".git" / "index").read_bytes() == index
    git(package, "status")
    assert (package / ".git" / "index").read_bytes() != index, "refreshed by git's own status"


def test_the_commit_of_another_project_is_not_ours(package):
    """As where a virtual environment lies inside somebody's repository."""
    outer, inner = package / "outer", package / "outer" / "lib"
    inner.mkdir(parents=True)
    shutil.move(package / "vpeft", inner / "vpeft")
    code.HERE = inner / "vpeft"
    git(outer, "init")
    git(outer, "commit", "--allow-empty", "-m", "theirs")
    assert code.git_hash() is None
    git(inner, "init")
    git(inner, "commit", "--allow-empty", "-m", "not tracked")
    assert code.git_hash() is None


def test_the_same_code_has_the_same_hash_wherever_it_lies(package):
    own = code.code_hash()
    other = package / "elsewhere" / "vpeft"
    shutil.copytree(package / "vpeft", other)
    code.HERE = other
    code.code_hash.cache_clear()
    assert code.code_hash() == own
    (other / "__init__.py").write_text("a = 2\n")
    code.code_hash.cache_clear()
    assert code.code_hash() != own


def test_this_packages_code_has_a_hash():
    assert Path(code.HERE, "__init__.py").is_file()
    assert len(code.code_hash()) == 16
