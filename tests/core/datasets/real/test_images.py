"""The suites of real images: sizes, balance, the same bytes everywhere, splits and their regions kept apart."""

import gzip
import hashlib
import itertools
import re
import struct
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from vpeft.apis.commands.words.data.data import main
from vpeft.apis.config.load import load_config
from vpeft.apis.data.sheets import contact_sheet
from vpeft.core.datasets.embedded.pictures import photograph
from vpeft.core.datasets.identity import overlap_faults
from vpeft.core.datasets.lists_digest import lists_digest
from vpeft.core.datasets.real.balance import balanced_parts
from vpeft.core.datasets.real.drawn import read_fashion
from vpeft.core.datasets.real.images import DEBIAN, SOURCES, RealImages, WholeRealImages, real_split
from vpeft.core.datasets.real.patches import PATCH_TASKS, nearness, quartiles, spots_within, stain
from vpeft.core.datasets.regions import GAP, PATCH, region_grid, regions_of_split
from vpeft.core.datasets.tasks import GROUPS, SUITES
from vpeft.errors import UserError

ROOT = Path(__file__).parents[4]
SPLITS = ("train800", "val200", "test")
#: SHA-256 of images and labels of the three splits: the same on every machine.
CHECKSUMS = {
    "real_digits": {"train800": "4701101c78e05b99", "val200": "d6b35af101697e0b", "test": "db06618d7ee90ab8"},
    "real_photos": {"train800": "ccbe4e60d24aed46", "val200": "cbf1d4b2aff0d8fc", "test": "31a8f7739fb65488"},
    "real_textures": {"train800": "eaad8740d47357df", "val200": "a59ebe2ae4aadadf", "test": "591bab22adad16f7"},
    "real_tissue": {"train800": "57ec23e388910ea9", "val200": "c5664ff017bef9a2", "test": "fe1acd97f0ffb610"},
    "real_retina": {"train800": "b1b3c14de0349084", "val200": "6095b8a0bce22dda", "test": "6f029fd8c868ff8d"},
    "real_depth": {"train800": "225ea668b7f065ac", "val200": "2e18fff56a595e2e", "test": "5e33f49e7cd9c514"},
    "real_turns": {"train800": "ee7dedbd94bf89d2", "val200": "2fa445630f43285a", "test": "3083997274de1d22"},
    "real_galaxies": {"train800": "a892f6c2ae0ce0e6", "val200": "32752a8842944c45", "test": "dd103fec9e09dcee"},
}
FASHION = {"train800": "84885f97c898d245", "val200": "0e1cb0990d286182", "test": "7c8b4839a9b8f082"}
IN_PACKAGES = [task for task in SUITES["real"] if task != "real_fashion"]
in_packages = pytest.mark.parametrize("task", IN_PACKAGES)
cut = pytest.mark.parametrize("task", PATCH_TASKS)


@cache
def data_of(task):
    return {split: RealImages(task=task, split=split) for split in SPLITS}


def digest(data):
    images = np.stack([row["img"][..., ::-1] for row in map(data.get_data_info, range(len(data)))])
    labels = np.array([data.get_data_info(index)["gt_label"] for index in range(len(data))], dtype=np.int64)
    return hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()[:16]


def labels_of(data):
    return np.array([data.get_data_info(index)["gt_label"] for index in range(len(data))])


def test_tasks_and_groups():
    assert {task.group for task in SUITES["real"].values()} == set(GROUPS)
    assert set(SOURCES) == {*SUITES["real"], *SUITES["real_whole"]}
    assert not set(SUITES["real"]) & (set(SUITES["mini"]) | set(SUITES["vtab"]))
    for suite in ("real", "real_whole"):
        for name, task in SUITES[suite].items():
            assert len(set(SOURCES[name].classes)) == task.num_classes


@in_packages
def test_sizes_balance_and_checksums(task):
    known = SUITES["real"][task]
    for split, data in data_of(task).items():
        assert len(data) == known.sizes[split]
        counts = np.bincount(labels_of(data), minlength=known.num_classes)
        assert len(counts) == known.num_classes
        # the digits' test has what is not drawn
        assert counts.max() - counts.min() <= (9 if (task, split) == ("real_digits", "test") else 1)
        assert digest(data) == CHECKSUMS[task][split], split


@in_packages
def test_splits_share_no_image(task):
    assert overlap_faults(data_of(task)) == []
    for data in data_of(task).values():
        assert len({row["img"].tobytes() for row in map(data.get_data_info, range(len(data)))}) == len(data)


@in_packages
def test_what_is_trained_on_in_the_end_is_both(task):
    whole = RealImages(task=task)
    parts = data_of(task)
    assert len(whole) == 1000
    assert labels_of(whole).tolist() == [*labels_of(parts["train800"]), *labels_of(parts["val200"])]
    assert np.array_equal(whole.get_data_info(803)["img"], parts["val200"].get_data_info(3)["img"])
    assert whole.metainfo["classes"] == SOURCES[task].classes
    assert RealImages(task=task.removeprefix("real_"), lazy_init=True).task.name == task


@cut
def test_squares_of_two_splits_never_touch(task):
    """From the rectangles alone: between any two of one photograph lie at least ``GAP`` pixels."""
    sizes = SUITES["real"][task].sizes
    squares = {
        split: [square for square, _ in PATCH_TASKS[task].squares(part, sizes[split])]
        for split, part in zip(SPLITS, ("tune", "val", "test"), strict=True)
    }
    met = 0
    for first, second in itertools.combinations(SPLITS, 2):
        for name in PATCH_TASKS[task].pictures:
            a, b = (
                np.array([square[1:] for square in squares[split] if square.picture == name])
                for split in (first, second)
            )
            if not len(a):  # the disparities are no picture
                continue
            between = np.full((len(a), len(b)), -np.inf)
            for axis in (0, 1):
                low, high = a[:, None, axis], b[None, :, axis]
                apart = np.maximum(high - (low + a[:, None, 2]), low - (high + b[None, :, 2]))
                between = np.maximum(between, apart)
            assert between.min() >= GAP, (name, first, second)
            met += 1
    assert met >= 3


@cut
def test_squares_lie_in_their_photographs(task):
    for square, label in PATCH_TASKS[task].squares("val", SUITES["real"][task].sizes["val200"]):
        height, width = photograph(square.picture, True).shape
        assert 0 <= square.y <= height - square.side
        assert 0 <= square.x <= width - square.side
        assert PATCH_TASKS[task].pixels(square, label).shape == (PATCH, PATCH, 3)


def test_regions_fill_the_picture_and_are_shared_out():
    regions = region_grid((300, 1411))
    assert len(regions) == 2 * 12
    assert max(r.y + r.height for r in regions) == 300
    assert {r.field for r in regions} == {0, 1, 2, 3, 4, 5}  # two rows are the upper and the middle third
    parts = [regions_of_split(regions, split, 3) for split in ("tune", "val", "test")]
    assert [len(part) for part in parts] == [12, 4, 8]
    assert sorted(itertools.chain(*parts)) == sorted(regions)
    assert [len(regions_of_split(regions[:4], split, 0)) for split in ("tune", "val", "test")] == [2, 1, 1]


@pytest.mark.parametrize(
    ("task", "picture", "measure", "bounds"),
    [
        ("real_tissue", "ihc", stain, (77928, 446434, 505035)),
        ("real_depth", "motorcycle_left", nearness, (20.3004513, 43.5590286, 48.0968781)),
        ("real_galaxies", "hubble_deep_field.jpg", spots_within, (10, 12, 15)),
    ],
)
def test_labels_are_quartiles(task, picture, measure, bounds):
    assert quartiles(picture, measure) == pytest.approx(bounds)
    for square, label in PATCH_TASKS[task].squares("val", 200):
        assert label == sum(measure(square) >= bound - 1e-5 for bound in bounds)


def test_depth_is_the_stereo_pairs():
    """What is said to be near is found further left in the right picture, by as much as the disparity says."""
    left, right = (photograph(f"motorcycle_{side}", True).astype(int) for side in ("left", "right"))
    hits = 0
    drawn = PATCH_TASKS["real_depth"].squares("val", 200)[:60]
    for square, _ in drawn:
        rows = slice(square.y, square.y + PATCH)
        patch = left[rows, square.x : square.x + PATCH]
        shifts = range(min(square.x, 70) + 1)
        errors = [np.abs(patch - right[rows, square.x - shift : square.x - shift + PATCH]).mean() for shift in shifts]
        hits += abs(int(np.argmin(errors)) - nearness(square)) < 6
    assert hits > 40


def test_turns_are_undone():
    task = PATCH_TASKS["real_turns"]
    for square, label in task.squares("val", 20):
        grey = photograph(square.picture, True)[square.y : square.y + PATCH, square.x : square.x + PATCH]
        assert np.array_equal(np.rot90(task.pixels(square, label), -label)[..., 0], grey)


def test_fields_of_the_eye():
    for square, label in PATCH_TASKS["real_retina"].squares("test", 90):
        assert label == 3 * (3 * (square.y + 49) // 1411) + 3 * (square.x + 49) // 1411


def test_balanced_parts():
    labels = np.repeat([0, 1, 2], [10, 12, 14])
    first, second, rest = balanced_parts(labels, (9, 6), 0)
    assert [np.bincount(labels[part]).tolist() for part in (first, second, rest)] == [[3] * 3, [2] * 3, [5, 7, 9]]
    assert sorted([*first, *second, *rest]) == list(range(36))
    assert not np.array_equal(first, balanced_parts(labels, (9, 6), 1)[0])


def write_fashion(folder, train=1300, test=40, classes=10):
    """Four files of random images of 4 x 4 pixels, as many of each class."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(7)
    for part, count in (("train", train), ("t10k", test)):
        images = rng.integers(0, 256, (count, 4, 4), dtype=np.uint8)
        labels = (np.arange(count) % classes).astype(np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
            (folder / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes(), 1))
    return folder.parent


def test_fashion_is_drawn_from_its_files(tmp_path):
    root = str(write_fashion(tmp_path / "a" / "fashion-mnist"))
    data = {split: RealImages(root, "fashion", split) for split in SPLITS}
    assert [len(part) for part in data.values()] == [800, 200, 40]
    assert [np.bincount(labels_of(part)).tolist() for part in data.values()] == [[80] * 10, [20] * 10, [4] * 10]
    assert overlap_faults(data) == []
    images, labels = read_fashion(*(next(Path(root).rglob(f"t10k-{n}*")) for n in ("images", "labels")))
    assert np.array_equal(data["test"].get_data_info(7)["img"], np.repeat(images[7][..., None], 3, axis=2))
    assert labels.tolist() == labels_of(data["test"]).tolist()
    assert data["test"].metainfo["classes"][labels[9]] == "ankle boot"
    known = {image.tobytes() for image in read_fashion(*SOURCES["real_fashion"].files(root, "tune"))[0]}
    assert all(row["img"][..., 0].tobytes() in known for row in map(data["val200"].get_data_info, range(200)))
    spec = {"type": "vpeft.RealImages", "data_root": root, "task": "real_fashion"}
    other = str(write_fashion(tmp_path / "b" / "fashion-mnist", test=50))
    assert lists_digest([{**spec, "split": "val200"}]) == lists_digest(
        [{**spec, "split": "val200", "data_root": other}]
    )
    assert lists_digest([{**spec, "split": "test"}]) != lists_digest([{**spec, "split": "test", "data_root": other}])


@pytest.mark.parametrize("folder", [".", "FashionMNIST/raw"])
def test_other_places_of_fashion(tmp_path, folder):
    write_fashion(tmp_path / "root" / folder if folder != "." else tmp_path / "root")
    assert len(RealImages(str(tmp_path / "root"), "real_fashion", "test")) == 40


def test_fashion_without_its_files_says_which_package(tmp_path):
    with pytest.raises(UserError, match=r"fashion-mnist holds no train-images-idx3-ubyte\.gz.*dataset-fashion-mnist"):
        RealImages(str(tmp_path), "real_fashion", "val200")


def test_the_check_of_a_machine_without_data_says_one_line(tmp_path, capsys):
    """What lies in packages is whole, wherever the root; the word ends well."""
    assert main(["check", str(tmp_path / "none"), "--suite", "real"]) == 0
    said = capsys.readouterr().out.splitlines()
    (line,) = [line for line in said if "Debian's package dataset-fashion-mnist" in line]
    assert line.startswith(f"real_fashion is not there: Fashion-MNIST: {tmp_path / 'none'}")
    (digits,) = [line for line in said if "real_digits" in line]
    assert re.findall(r"\d+|ok", digits) == ["800", "200", "1000", "797", "ok"]
    assert said[-1] == "8 of 9 tasks whole, 0 broken"


def test_fashion_that_is_not_whole_is_refused(tmp_path):
    few = write_fashion(tmp_path / "few" / "fashion-mnist", train=500)
    with pytest.raises(UserError, match="has 50 training images of a class where 100 are drawn"):
        RealImages(str(few), "real_fashion", "val200")
    with pytest.raises(UserError, match="has 130 training images of a class where 6000 are drawn"):
        WholeRealImages(str(write_fashion(tmp_path / "b" / "fashion-mnist")), split="val")
    more = write_fashion(tmp_path / "more" / "fashion-mnist", classes=11)
    with pytest.raises(UserError, match="label 10 is out of range"):
        RealImages(str(more), "real_fashion", "test")
    (more / "fashion-mnist" / "t10k-labels-idx1-ubyte.gz").write_bytes(
        (few / "fashion-mnist" / "train-labels-idx1-ubyte.gz").read_bytes()
    )
    with pytest.raises(UserError, match=r"40 images and .* 500 labels"):
        RealImages(str(more), "real_fashion", "test")


@pytest.mark.skipif(
    not Path(DEBIAN, "fashion-mnist").is_dir(), reason="Debian's dataset-fashion-mnist is not installed"
)
def test_the_real_fashion_mnist():
    data = {split: RealImages(task="real_fashion", split=split) for split in SPLITS}
    assert {split: digest(part) for split, part in data.items()} == FASHION
    assert overlap_faults(data) == []
    whole = [real_split("real_whole", "fashion_full", split)[1] for split in ("train", "val", "trainval", "test")]
    assert [np.bincount(labels).tolist() for labels in whole] == [[5500] * 10, [500] * 10, [6000] * 10, [1000] * 10]


RECIPE = """
_base_ = [
    "{root}/configs/_base_/models/classification/nano_vit.py",
    "{root}/configs/_base_/datasets/classification/{data}.py",
    "{root}/configs/_base_/schedules/mini.py",
    "{root}/configs/_base_/runtimes/default.py",
]
"""


@pytest.mark.parametrize(
    ("data", "tasks", "kind"),
    [("real", SUITES["real"], RealImages), ("real_whole", SUITES["real_whole"], WholeRealImages)],
)
def test_configs(tmp_path, data, tasks, kind):
    (tmp_path / "one.py").write_text(RECIPE.format(root=ROOT, data=data))
    for name, task in tasks.items():
        cfg = load_config(tmp_path / "one.py", name, {"augmentation": "flip"})
        assert cfg.model.head.num_classes == task.num_classes
        assert cfg.train_dataloader.dataset.type == f"vpeft.{kind.__name__}"
        assert cfg.train_dataloader.dataset.split == {"real": "train800val200", "real_whole": "trainval"}[data]
        assert {cfg[f"{n}_dataloader"].dataset.task for n in ("train", "test")} == {name}
        pipeline = [step["type"] for step in cfg.train_dataloader.dataset.pipeline]
        assert ("RandomFlip" in pipeline) == task.flip_safe
        assert cfg.train_dataloader.dataset.pipeline[1] == {
            "type": "Resize",
            "scale": (98, 98),
            "interpolation": "bicubic",
        }
    assert cfg.val_dataloader is None
    assert cfg.data_preprocessor.mean == [123.675, 116.28, 103.53]


def test_a_sample_through_the_pipeline():
    pipeline = [{"type": "vpeft.LoadImage"}, {"type": "Resize", "scale": (56, 56), "interpolation": "bicubic"}]
    sample = RealImages(task="real_digits", split="val200", pipeline=pipeline)[3]
    assert sample["img"].shape == (56, 56, 3)
    assert sample["ori_shape"] == (8, 8)


def test_contact_sheet_of_another_suite(tmp_path):
    from PIL import Image

    file = contact_sheet(tmp_path / "sheet.png", ["digits", "tissue"], samples=5, suite="real")
    with Image.open(file) as sheet:
        assert (np.asarray(sheet.convert("RGB")) != 255).any(-1).mean() > 0.3
    with pytest.raises(UserError, match=r"unknown suite 'reel'.*'real'"):
        contact_sheet(tmp_path / "sheet.png", suite="reel")
