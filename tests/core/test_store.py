"""Records by key, in a folder with a limit."""

import multiprocessing

import pytest

from vpeft.core.store import Store, byte_count
from vpeft.errors import UserError


def test_records_are_there_or_not(tmp_path):
    store = Store(tmp_path / "a", "10MB")
    assert store.put({b"1": b"one", b"2": b"two"})
    assert store.get([b"2", b"3", b"1"]) == [b"two", None, b"one"]
    store.close()
    again = Store(tmp_path / "a", "10MB")
    assert (len(again), again.get([b"1"])) == (2, [b"one"])


def test_what_does_not_fit_is_not_kept(tmp_path):
    store = Store(tmp_path, 10**6)
    assert store.put({b"1": bytes(400_000)})
    assert not store.put({b"2": bytes(400_000), b"3": bytes(400_000)})
    assert store.get([b"1", b"2", b"3"]) == [bytes(400_000), None, None]
    assert store.full
    assert not store.put({b"4": b"small"})
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 1.1e6


def _write(folder, key):
    Store(folder, "10MB").put({key: key * 3})


def test_processes_share_a_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_write, args=(tmp_path, key)) for key in (b"a", b"b")]
    for one in others:
        one.start()
    for one in others:
        one.join()
    assert Store(tmp_path, "10MB").get([b"a", b"b"]) == [b"aaa", b"bbb"]


@pytest.mark.parametrize(("limit", "size"), [("20GB", 2 * 10**10), ("1.5 MB", 1_500_000), (2_000_000, 2_000_000)])
def test_sizes(limit, size):
    assert byte_count(limit) == size


@pytest.mark.parametrize("limit", ["20 apples", "", "-1GB", 10, "5KB", "B", None])
def test_what_is_no_size(limit):
    with pytest.raises(UserError, match="give bytes or a size such as '20GB'"):
        byte_count(limit)
