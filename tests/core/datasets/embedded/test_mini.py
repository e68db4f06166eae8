"""The embedded tasks: sizes, determinism, disjoint splits, labels that mean what they say."""

import hashlib

import numpy as np
import pytest

from vpeft.apis.data.sheets import contact_sheet
from vpeft.core.datasets.embedded.mini import MAKERS, MiniVTAB, drawn_split, mini_split
from vpeft.core.datasets.embedded.pictures import carried
from vpeft.core.datasets.tasks import GROUPS, SUITES
from vpeft.errors import UserError

#: SHA-256 of images and labels of the validation split: the same on every machine.
CHECKSUMS = {
    "digits": "3e3ff79f15022bdc",
    "photos": "a27cccdc53a166e9",
    "textures": "130198395a094225",
    "tissue": "102734192b70223d",
    "sprite_location": "500de3f26bf0d6af",
    "sprite_orientation": "0ab3438155982625",
    "sprite_count": "824f9ea35ff4a7e6",
    "sprite_distance": "d309ea1ff4f5d6ce",
}
tasks = pytest.mark.parametrize("task", SUITES["mini"])


def digest(images: np.ndarray, labels: np.ndarray) -> str:
    return hashlib.sha256(images.tobytes() + labels.astype(np.int64).tobytes()).hexdigest()[:16]


def test_tasks_and_groups():
    assert set(MAKERS) == set(SUITES["mini"])
    assert len(SUITES["mini"]) >= 7
    assert {task.group for task in SUITES["mini"].values()} == set(GROUPS)


@tasks
def test_classes_have_names(task):
    names = MiniVTAB(task, "val200").metainfo["classes"]
    assert len(set(names)) == SUITES["mini"][task].num_classes
    own = [f"kind {i}" for i in range(len(names))]
    assert MiniVTAB(task, "val200", metainfo={"classes": own}).metainfo["classes"] == own


@tasks
def test_sizes_and_classes(task):
    for split, size in {"train800": 800, "val200": 200, "test": SUITES["mini"][task].test_size}.items():
        images, labels = mini_split(task, split)
        assert images.shape == (size, 32, 32, 3)
        assert images.dtype == np.uint8
        counts = np.bincount(labels, minlength=SUITES["mini"][task].num_classes)
        assert len(counts) == SUITES["mini"][task].num_classes
        assert counts.min() > 0.5 * size / len(counts)
        assert counts.max() < 2 * size / len(counts)


@tasks
def test_the_same_on_every_machine(task):
    first = digest(*mini_split(task, "val200"))
    again = digest(*drawn_split.__wrapped__(task, "val200")[:2])
    assert first == again == CHECKSUMS[task]
    assert digest(*mini_split(task, "val200", 1)) != first


@tasks
def test_splits_share_no_image(task):
    seen = [{image.tobytes() for image in mini_split(task, split)[0]} for split in ("train800", "val200", "test")]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


@tasks
def test_dataset_interface(task):
    data = MiniVTAB(task, "train800val200", pipeline=[{"type": "vpeft.LoadImage"}])
    images, labels = mini_split(task, "val200")
    assert len(data) == 1000
    sample = data[803]
    assert np.array_equal(sample["img"][..., ::-1], images[3])  # BGR, as the pipelines expect
    assert sample["gt_label"] == labels[3]
    assert sample["ori_shape"] == (32, 32)
    assert data.metainfo["task"] == task


def test_location_label_is_the_field():
    """The shape stands out of its background by colour; its centre lies in the labelled field."""
    images, labels = mini_split("sprite_location", "train800")
    right = 0
    for image, label in zip(images[:200].astype(float), labels[:200], strict=True):
        distance = np.abs(image - np.median(image, axis=(0, 1))).sum(-1)
        ys, xs = np.nonzero(distance > 0.6 * distance.max())
        right += int(np.median(ys) // 8) * 4 + int(np.median(xs) // 8) == label
    assert right > 120  # of 200; by chance 12


def test_unknown_names():
    with pytest.raises(UserError, match="did you mean 'sprite_count'"):
        MiniVTAB("sprite_cout")
    with pytest.raises(UserError, match=r"unknown split 'tset'.*'test'"):
        MiniVTAB("digits", "tset")


def test_contact_sheet(tmp_path):
    from PIL import Image

    with Image.open(contact_sheet(tmp_path / "sheet.png", ["digits", "tissue"], samples=5)) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    assert pixels.shape[0] > 150
    assert (pixels != 255).any(-1).mean() > 0.3


def test_a_package_without_the_pictures_is_named(tmp_path, monkeypatch):
    (tmp_path / "some_pictures_").mkdir()
    (tmp_path / "some_pictures_" / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"some_pictures_/one\.png does not exist: install some-pictures"):
        carried("some_pictures_", "some-pictures", "one.png")
    with pytest.raises(ModuleNotFoundError, match="no_such_package_"):
        carried("no_such_package_", "none", "one.png")
