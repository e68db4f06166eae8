"""Broken and hostile files: a small sample always, the whole campaign among the slow tests."""

import os
import pickle
import re
import time
from collections import Counter

import pytest

from robustness.campaign import BAD, CODE, CRASH, EQUAL, HANG, OTHER, RAW, REFUSED, UNCLEAR, WRONG, cases, describe, run
from robustness.files import READERS, ROOT, Reader
from robustness.mutate import BYTES
from robustness.own_process import in_own_process
from vpeft.errors import UserError

#: Readers that need no run, and take milliseconds.
QUICK = ["adapter, onto a plain model", "pretrained weights.pth", "pretrained weights.npz", "embeddings of classes"]
QUICK += ["image a.png", "image a.jpg", "list of VTAB-1k", "list of FGVC", "annotations of COCO", "search of NOAH"]


@pytest.fixture(autouse=True)
def _root(monkeypatch):
    monkeypatch.chdir(ROOT)


def bad(found):
    return [describe(one) for one in found if one.outcome in BAD]


def test_a_sample_of_broken_files_is_refused(tmp_path):
    todo = cases(0, 120, QUICK)
    found = run(todo, 0, tmp_path, workers=2)
    assert Counter(one.case for one in found) == Counter(todo)
    assert bad(found) == []
    assert sum(one.outcome == REFUSED for one in found) > 90


@pytest.mark.slow
def test_a_thousand_broken_files_over_all_readers(tmp_path):
    assert {case.reader for case in cases(0, 1000)} == set(READERS)
    status, lines = in_own_process("campaign.py", "--files", "1000", "--workers", "2", folder=tmp_path)
    assert status == 0, "\n".join(lines)
    none_of_these = ", ".join(f"0 {kind}" for kind in BAD)
    assert re.fullmatch(rf"1000 files in \d+ s: {none_of_these}", lines[-1])


def test_the_same_seed_gives_the_same_files():
    assert cases(3, 200, QUICK) == cases(3, 200, QUICK)
    assert set(cases(3, 200, QUICK)) != set(cases(4, 200, QUICK))


def write(folder):
    (folder / "a.bin").write_bytes(pickle.dumps(list(range(40))))
    return folder / "a.bin"


def unpickled(path):
    return pickle.loads(path.read_bytes())


def refusing(path):
    if path.read_bytes() != pickle.dumps(list(range(40))):
        raise UserError(f"{path} was changed.")


def silent(path):
    if path.read_bytes() != pickle.dumps(list(range(40))):
        raise UserError("the file was changed.")


def waiting(path):
    if path.read_bytes() != pickle.dumps(list(range(40))):
        time.sleep(60)


def dying(path):
    if path.read_bytes() != pickle.dumps(list(range(40))):
        os._exit(3)


READ = {
    "refusing": (refusing, {REFUSED}),
    "silent": (silent, {UNCLEAR}),
    "waiting": (waiting, {HANG}),
    "dying": (dying, {CRASH}),
    "first byte": (lambda path: path.read_bytes()[:1], {WRONG}),
    "length": (lambda path: len(path.read_bytes()), {WRONG, OTHER}),
    "unpickled": (unpickled, {RAW, WRONG, CODE}),
}


@pytest.mark.parametrize("name", READ)
def test_the_campaign_sees_what_a_bad_reader_does(name, tmp_path, monkeypatch):
    read, expected = READ[name]
    seals = () if name == "length" else (BYTES,)
    monkeypatch.setitem(READERS, name, Reader(name, ("binary",), write, read, seals, runs_code=name == "unpickled"))
    slow = name in ("waiting", "dying")
    todo = [case for case in cases(1, 4 if slow else 60, [name]) if case.kind != "place"]
    found = run(todo, 1, tmp_path, workers=2, seconds=0.5 if slow else 60)
    assert len(found) == len(todo)
    # A mutation may leave the bytes as they were.
    assert {one.outcome for one in found} | {EQUAL} == expected | {EQUAL}
