"""Scenes: what is said of their objects is true, and folders are drawn once."""

import hashlib
import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from vpeft.core.datasets.embedded.scenes import CLASSES, MOST, SIZE, SPLITS, VERSION, draw_split, ensure, scene
from vpeft.errors import UserError


@pytest.fixture(scope="module")
def drawn():
    return draw_split("train", 240)


def test_sizes_and_types(drawn):
    for one in drawn:
        assert one.image.shape == (SIZE, SIZE, 3)
        assert one.image.dtype == np.uint8
        assert 1 <= len(one.labels) <= MOST
        assert one.masks.shape == (len(one.labels), SIZE, SIZE)
        assert one.masks.sum(0).max() <= 1  # no pixel belongs to two objects
        assert one.masks.sum((1, 2)).min() >= 15


def test_every_class_and_number_is_drawn_alike(drawn):
    classes = np.bincount(np.concatenate([one.labels for one in drawn]), minlength=len(CLASSES))
    assert classes.min() > 0.6 * classes.mean()
    numbers = np.bincount([len(one.labels) for one in drawn], minlength=MOST + 1)[1:]
    assert numbers.min() > 0.5 * numbers.mean()


def test_boxes_hold_their_masks_and_nothing_more(drawn):
    for one in drawn:
        for mask, (x1, y1, x2, y2) in zip(one.masks, one.boxes, strict=True):
            inside = mask[y1:y2, x1:x2]
            assert inside.sum() == mask.sum()
            assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))


def test_the_label_map_names_what_the_masks_name(drawn):
    for one in drawn:
        assert one.label_map.dtype == np.uint8
        assert (one.label_map > 0).sum() == one.masks.sum()
        for label, mask in zip(one.labels, one.masks, strict=True):
            assert (one.label_map[mask] == label + 1).all()


def test_objects_are_seen_in_the_image(drawn):
    """The mean colour inside a mask is not that around its box, for nearly all objects."""
    differ = []
    for one in drawn:
        free = ~one.masks.any(0)
        ground = one.image[free].astype(float).mean(0)
        differ += [abs(one.image[mask].astype(float).mean(0) - ground).sum() > 40 for mask in one.masks]
    assert np.mean(differ) > 0.9


def test_objects_hide_one_another():
    whole = [box for one in draw_split("train", 60) for box in one.boxes]
    crossing = 0
    for one in draw_split("train", 60):
        for i, (x1, y1, x2, y2) in enumerate(one.boxes):
            crossing += any(one.masks[j, y1:y2, x1:x2].any() for j in range(len(one.boxes)) if j != i)
    assert 0.1 < crossing / len(whole) < 0.8


def test_the_same_again_and_splits_apart():
    def digest(scenes):
        return hashlib.sha256(b"".join(s.image.tobytes() + s.masks.tobytes() for s in scenes)).hexdigest()

    first = draw_split("val", 5)
    assert digest(first) == digest(draw_split("val", 8)[:5])
    assert digest(first) != digest(draw_split("val", 5, seed=1))
    seen = [{s.image.tobytes() for s in draw_split(split, 20)} for split in SPLITS]
    assert not seen[0] & seen[1]
    assert not seen[1] & seen[2]
    assert not seen[0] & seen[2]
    one, two = scene(np.random.default_rng(7)), scene(np.random.default_rng(7))
    assert one.image.tobytes() == two.image.tobytes()


def test_an_unknown_split_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'train'"):
        draw_split("trian")


def fill(folder: Path) -> None:
    for number in range(50):
        (folder / f"{number}.txt").write_text("x" * 1000)
    with (folder.parent / "calls").open("a") as calls:
        calls.write("x")


def test_a_folder_is_drawn_once(tmp_path):
    root = tmp_path / "deep" / "set"
    (tmp_path / "deep").mkdir()
    assert ensure(root, fill) == root
    ensure(root, fill)
    assert (root.parent / "calls").read_text() == "x"
    assert len(list(root.iterdir())) == 51
    assert [p.name for p in root.parent.iterdir() if p.is_dir()] == ["set"]


def whole(root: Path) -> int:
    return len(list(ensure(root, fill).iterdir()))


def test_processes_that_start_at_once_see_a_whole_folder(tmp_path):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(whole, [tmp_path / "set"] * 8, chunksize=1) == [51] * 8
    assert sorted(p.name for p in tmp_path.iterdir()) == ["calls", "set"]


def test_a_failure_leaves_nothing_behind(tmp_path):
    def broken(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise KeyError("no")

    with pytest.raises(KeyError):
        ensure(tmp_path / "set", broken)
    assert not list(tmp_path.iterdir())

    def full(folder: Path) -> None:
        raise OSError("disk full")

    with pytest.raises(UserError, match=r"set cannot be written \(disk full"):
        ensure(tmp_path / "set", full)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "said"), [('{"version": 0}', "version 0"), ("[]", "no embedded"), ("{", "no embedded")]
)
def test_a_folder_of_something_else_is_refused(tmp_path, content, said):
    root = tmp_path / "set"
    root.mkdir()
    with pytest.raises(UserError, match="no embedded data set"):
        ensure(root, fill)
    (root / "drawn.json").write_text(content)
    with pytest.raises(UserError, match=f"{said}.*version {VERSION} is needed"):
        ensure(root, fill)
    (root / "drawn.json").write_text(json.dumps({"version": VERSION}))
    assert ensure(root, fill) == root
