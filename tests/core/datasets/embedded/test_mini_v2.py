"""Embedded tasks, second version: the same everywhere, regions apart, labels mean what they say, no one sum decides."""

import hashlib

import numpy as np
import pytest

from vpeft.core.datasets.embedded.mini import EMBEDDED, MiniVTAB, drawn_split
from vpeft.core.datasets.embedded.pictures import TEXTURES, brown, photograph
from vpeft.core.datasets.embedded.second import pictures_v2, sprites_v2
from vpeft.core.datasets.embedded.second.forms import SPLIT_USES, form_mask
from vpeft.core.datasets.embedded.second.mini_v2 import MiniVTABv2
from vpeft.core.datasets.embedded.second.pictures_v2 import FAR_REGION, NEAR_REGION
from vpeft.core.datasets.embedded.sprites import GRID
from vpeft.core.datasets.regions import GAP, region_grid, regions_of_split
from vpeft.core.datasets.tasks import GROUPS, SUITES
from vpeft.errors import UserError

#: SHA-256 of images and labels of the validation split: the same on every machine.
CHECKSUMS = {
    "digits_v2": "383c8158e3aa0ba4",
    "photos_v2": "9d47eb2b9360b4e2",
    "textures_v2": "604eadb523d0a4ac",
    "tissue_v2": "8279bce87ab79d0d",
    "sprite_location_v2": "f85c78b26067e849",
    "sprite_orientation_v2": "05ba996b042e511a",
}
#: Photograph, side of a region, and which division, of the tasks on patches.
CUT = {
    "photos_v2": [(name, NEAR_REGION, salt) for salt, name in enumerate(EMBEDDED["mini"].classes["photos"])],
    "textures_v2": [(name, FAR_REGION, salt) for salt, name in enumerate(TEXTURES)],
    "tissue_v2": [("ihc", NEAR_REGION, pictures_v2.SECTION_CUT)],
}
tasks = pytest.mark.parametrize("task", CHECKSUMS)


def val(task):
    return drawn_split(task, "val200", 0, "mini_v2")


def test_the_suite_stands_beside_the_first():
    assert set(SUITES["mini_v2"]) == set(CHECKSUMS) == set(EMBEDDED["mini_v2"].makers)
    assert not set(SUITES["mini_v2"]) & set(SUITES["mini"])
    assert {task.group for task in SUITES["mini_v2"].values()} == set(GROUPS)
    for name, task in SUITES["mini_v2"].items():
        assert len(set(EMBEDDED["mini_v2"].classes[name])) == task.num_classes
        assert task.aliases[0] in SUITES["mini"]


@tasks
def test_balanced_and_the_same_on_every_machine(task):
    images, labels, _ = val(task)
    assert images.shape == (200, 32, 32, 3)
    counts = np.bincount(labels, minlength=SUITES["mini_v2"][task].num_classes)
    assert counts.max() - counts.min() <= (9 if task == "digits_v2" else 1)  # the digits are as they were scanned
    assert hashlib.sha256(images.tobytes() + labels.astype(np.int64).tobytes()).hexdigest()[:16] == CHECKSUMS[task]


@pytest.mark.parametrize("task", CUT)
def test_regions_of_two_splits_never_touch(task):
    """Patches lie inside their regions, which are ``GAP`` apart; the names in the data are those of the split."""
    known = set()
    for name, least, salt in CUT[task]:
        grid = region_grid(photograph(name, True).shape, least)
        parts = {split: set(regions_of_split(grid, use, salt)) for split, use in SPLIT_USES.items()}
        assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == len(grid)
        rows, columns = (sorted({r[axis] for r in grid}) for axis in (0, 1))
        assert min(np.diff(rows)) - max(r.height for r in grid) == GAP
        assert min(np.diff(columns)) - max(r.width for r in grid) == GAP
        known |= {f"{name} {r.y} {r.x}" for r in parts["val200"]}
    found = val(task).regions
    assert set(found) <= known
    assert len(set(found)) > 0.5 * len(known)


def test_more_regions_than_the_first_version():
    def test_regions(task):
        return sum(
            len(regions_of_split(region_grid(photograph(name, True).shape, least), "test", salt))
            for name, least, salt in CUT[task]
        )

    assert {task: test_regions(task) for task in CUT} == {"photos_v2": 211, "textures_v2": 48, "tissue_v2": 30}


def test_the_figure_is_of_its_class():
    _, labels, regions = val("textures_v2")
    assert [region.split()[0] for region in regions] == [TEXTURES[label // 2] for label in labels]


@pytest.mark.parametrize("suite", ["mini", "mini_v2"])
def test_one_sum_decides_the_first_tissue_alone(suite):
    """Share of the variance of the stained sum that lies between the classes."""
    images, labels, _ = drawn_split({"mini": "tissue", "mini_v2": "tissue_v2"}[suite], "val200", 0, suite)
    stain = np.array([brown(image) for image in images], float)
    between = sum((labels == k).sum() * (stain[labels == k].mean() - stain.mean()) ** 2 for k in range(4))
    share = between / ((stain - stain.mean()) ** 2).sum()
    assert share > 0.7 if suite == "mini" else share < 0.05


def test_forms_are_turned_to_the_right():
    mask = form_mask("tee", 48, 48, 30, 0)
    ys, xs = np.nonzero(mask)
    assert ys.mean() < 48 - 5  # the bar is above
    assert abs(xs.mean() - 48) < 1
    quarter = form_mask("tee", 48, 48, 30, 90)
    both = np.rot90(mask, -1)
    assert np.nonzero(quarter)[1].mean() > 48 + 5  # clockwise
    assert (quarter & np.roll(both, 1, 1)).sum() > 0.97 * quarter.sum()


def test_location_says_which_form_and_on_which_side(monkeypatch):
    painted = iter([100, 200] * 16)
    monkeypatch.setattr(sprites_v2, "background", lambda rng: (np.zeros((GRID, GRID, 3), int), 0))
    monkeypatch.setattr(sprites_v2, "colour", lambda rng, base: next(painted))
    asked = []
    monkeypatch.setattr(sprites_v2, "form_mask", lambda kind, *rest: asked.append(kind) or form_mask(kind, *rest))
    images, labels = sprites_v2.location_v2("val200", 16, np.random.default_rng(0))
    assert asked[::2] == ["disc"] * 16
    assert asked[1::2] == [sprites_v2.BESIDE_DISC[label // 2] for label in labels]
    for image, label in zip(images[..., 0], labels, strict=True):
        disc, form = (np.nonzero(image == value)[1].mean() for value in (100, 200))
        assert (form < disc) == label % 2


def test_digits_are_written_as_they_were_scanned():
    scan = np.arange(64).reshape(8, 8) % 17
    ink = pictures_v2._written(scan, 7, (40, 50), 0)[..., 0]
    assert np.array_equal(ink[40 - 28 : 40 + 28, 50 - 28 : 50 + 28], np.kron(scan, np.ones((7, 7), int)))
    assert ink.sum() == 49 * scan.sum()


def test_samples_say_their_region_where_they_have_one():
    patches, whole = MiniVTABv2("textures", "val200"), MiniVTABv2("digits", "val200")
    assert (patches.task.name, whole.task.name) == ("textures_v2", "digits_v2")
    assert patches.get_data_info(7)["region"] == val("textures_v2").regions[7]
    assert "region" not in whole.get_data_info(7)
    assert MiniVTAB("tissue", "val200").get_data_info(0)["region"].startswith("ihc ")
    with pytest.raises(UserError, match="would change the label of task sprite_location_v2"):
        MiniVTABv2("sprite_location", "test", shift="rotate-2")
