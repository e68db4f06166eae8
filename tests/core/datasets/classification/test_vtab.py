"""VTAB-1k in its public layout, made here, and everything that can be wrong with it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vpeft.apis.data.check import check_suite
from vpeft.core.datasets.classification.vtab import VTAB1k
from vpeft.core.datasets.tasks import SUITES
from vpeft.errors import UserError

LOAD = [{"type": "vpeft.LoadImage"}]


def make(root: Path, task: str = "dtd", labels=range(4)) -> Path:
    """A task's folder with one image per label and split."""
    for split in ("train800", "val200", "test"):
        lines = []
        for number, label in enumerate(labels):
            file = root / task / "images" / split / f"{number:06d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (24, 16), (255, 10 * number, 0)).save(file, quality=100)
            lines.append(f"images/{split}/{number:06d}.jpg {label}\n")
        (root / task / f"{split}.txt").write_text("".join(lines))
    both = (root / task / "train800.txt").read_text() + (root / task / "val200.txt").read_text()
    (root / task / "train800val200.txt").write_text(both)
    return root


def test_samples(tmp_path):
    data = VTAB1k(str(make(tmp_path)), "dtd", "train800val200", pipeline=LOAD)
    assert len(data) == 8
    sample = data[5]
    assert sample["gt_label"] == 1
    assert Path(sample["img_path"]) == tmp_path / "dtd/images/val200/000001.jpg"
    assert sample["img"].shape == (16, 24, 3)
    assert sample["img"][..., 2].min() > 240  # BGR: red last
    assert sample["img"][..., 0].max() < 20
    assert data.metainfo["task"] == "dtd"
    assert len(VTAB1k(str(tmp_path), "dtd", "test")) == 4


@pytest.mark.parametrize("task", SUITES["vtab"])
def test_every_task_is_found_under_its_names(task, tmp_path):
    for name in (SUITES["vtab"][task].name, *SUITES["vtab"][task].aliases):
        root = make(tmp_path / name, name, range(2))
        assert len(VTAB1k(str(root), task, "test")) == 2


def test_nineteen_tasks_in_three_groups():
    groups = [task.group for task in SUITES["vtab"].values()]
    assert [groups.count(g) for g in ("natural", "specialized", "structured")] == [7, 4, 8]
    classes = {"cifar": 100, "sun397": 397, "patch_camelyon": 2, "clevr_count": 8, "kitti": 4, "smallnorb_azi": 18}
    assert {name: SUITES["vtab"][name].num_classes for name in classes} == classes


def broken(root: Path, how: str) -> None:
    """Break one thing."""
    folder = root / "dtd"
    lines = (folder / "train800.txt").read_text().splitlines()
    if how == "list":
        (folder / "train800.txt").unlink()
    elif how == "empty":
        (folder / "train800.txt").write_text("\n")
    elif how == "image":
        (folder / "images/train800/000002.jpg").unlink()
    elif how == "truncated":
        file = folder / "images/train800/000002.jpg"
        rng = np.random.default_rng(0)
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(file)
        file.write_bytes(file.read_bytes()[:1500])
    elif how == "text":
        (folder / "images/train800/000002.jpg").write_text("no image")
    else:
        lines[2] = {
            "label": "images/train800/000002.jpg 47",
            "negative": "x.jpg -1",
            "malformed": "x.jpg",
            "fraction": "x.jpg 1.5",
            "superscript": "x.jpg ²",
            "latin-1": "\xe4.jpg 1",
            "long": f"{'x' * 300}.jpg 1",
        }[how]
        (folder / "train800.txt").write_bytes("\n".join(lines).encode("latin-1" if how == "latin-1" else "utf-8"))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("list", r"list .*dtd/train800\.txt does not exist: `tools/data\.py check"),
        ("empty", r"train800\.txt is empty"),
        ("label", r"train800\.txt:3: label 47 is out of range: task dtd has the classes 0 to 46"),
        ("negative", r"train800\.txt:3: label -1 is out of range"),
        ("malformed", r"train800\.txt:3: 'x\.jpg' is not `<path> <label>`"),
        ("fraction", r"train800\.txt:3: 'x\.jpg 1\.5' is not `<path> <label>`, the label a whole number"),
        ("superscript", r"train800\.txt:3: .* is not `<path> <label>`"),
        ("latin-1", r"train800\.txt:3: byte 0xe4 is not UTF-8"),
        ("long", r"train800\.txt:3: 'xxx.* is no path of a file: a name has 304 bytes"),
        ("image", r"image of task dtd .*000002\.jpg does not exist"),
        ("truncated", r"image of task dtd .*000002\.jpg is truncated or no image"),
        ("text", r"image of task dtd .*000002\.jpg is truncated or no image"),
    ],
)
def test_what_is_broken_is_named(how, message, tmp_path):
    broken(make(tmp_path), how)
    with pytest.raises(UserError, match=message):
        VTAB1k(str(tmp_path), "dtd", "train800", pipeline=LOAD)[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing", "dtd"), r"VTAB-1k folder .*missing does not exist: unpack VTAB-1k there or set data_root"),
        ((".", "eurosat"), r"task eurosat: folder .*eurosat does not exist"),
        ((".", "dtdd"), "unknown task 'dtdd' of suite 'vtab': did you mean 'dtd'"),
        ((".", "dtd", "train80"), "unknown split 'train80' of suite 'vtab': did you mean 'train800'"),
    ],
)
def test_wrong_arguments(arguments, message, tmp_path):
    make(tmp_path)
    root, *rest = arguments
    with pytest.raises(UserError, match=message):
        VTAB1k(str(tmp_path / root), *rest)


def test_check_names_what_is_wrong(tmp_path):
    make(tmp_path)
    states = {state.task: state for state in check_suite(tmp_path)}
    assert list(states) == list(SUITES["vtab"])
    assert states["dtd"].counts == {"train800": 4, "val200": 4, "train800val200": 8, "test": 4}
    assert states["dtd"].problem == "train800.txt lists 4 images, the public one 800"
    assert not states["kitti"].present
    broken(tmp_path, "truncated")
    assert "lists 4" in {s.task: s for s in check_suite(tmp_path)}["dtd"].problem
    assert "is truncated" in {s.task: s for s in check_suite(tmp_path, decode=True)}["dtd"].problem
    broken(tmp_path, "image")
    assert "000002.jpg of train800.txt does not exist" in {s.task: s for s in check_suite(tmp_path)}["dtd"].problem
    with pytest.raises(UserError, match="does not exist"):
        check_suite(tmp_path / "missing")
