"""Which images data sets read, and what two of them share."""

import os
import shutil

import numpy as np
import pytest
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset
from torch.utils.data import ConcatDataset as TorchConcat
from torch.utils.data import Subset

from vpeft import UserError
from vpeft.core.datasets.embedded.mini import MiniVTAB
from vpeft.core.datasets.identity import copied_images, images_in_both, images_of, overlap_faults
from vpeft.core.datasets.lists_digest import lists_digest


class Paths(BaseDataset):
    """Samples of these files."""

    def __init__(self, paths, key="img_path", **kwargs):
        self.paths, self.key = paths, key
        super().__init__(**kwargs)

    def load_data_list(self):
        return [{self.key: str(path), "gt_label": 0} for path in self.paths]


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(20)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 50)
    return paths


def test_a_file_is_one_whatever_leads_to_it(files, tmp_path):
    link, hard, turned = tmp_path / "link.png", tmp_path / "hard.png", f"{tmp_path}/../{tmp_path.name}/2.png"
    link.symlink_to(files[0])
    os.link(files[1], hard)
    (tmp_path / "folder").symlink_to(tmp_path)
    others = Paths([link, hard, turned, tmp_path / "folder" / "3.png", files[10]])
    assert len(images_in_both(images_of(Paths(files[:5])), images_of(others))) == 4
    (fault,) = overlap_faults({"training": Paths(files[:5]), "test": others, "validation": None})
    assert fault.startswith("4 of 5 images are for training and for test, such as")
    assert overlap_faults({"training": Paths(files[:5]), "test": Paths(files[5:])}) == []


@pytest.mark.parametrize(
    "within",
    [
        lambda data: RepeatDataset(data, 3),
        lambda data: ConcatDataset([data, data]),
        lambda data: Subset(data, [0, 1]),
        lambda data: Subset(RepeatDataset(data, 2), [0, 1, 2]),
    ],
)
def test_data_sets_inside_others(files, within):
    data = within(Paths(files[:2]))
    assert len(images_of(data)) == 2
    assert len(images_in_both(images_of(data), images_of(Paths(files[1:])))) == 1


def test_a_subset_reads_its_own_images_alone(files):
    assert len(images_of(Paths(files, indices=[3, 4]))) == 2
    assert overlap_faults({"training": Paths(files, indices=[0, 1]), "test": Subset(Paths(files), [2, 3])}) == []
    assert (
        "1 of 2 images"
        in overlap_faults({"training": Paths(files, indices=[0, 2]), "test": Subset(Paths(files), [2, 3])})[0]
    )


@pytest.mark.parametrize(
    "within",
    [
        lambda data: Subset(Subset(data, [4, 2, 7, 9]), [1, 3]),
        lambda data: Subset(TorchConcat([Subset(data, [2]), Subset(data, [5, 9])]), [0, 2]),
    ],
)
def test_a_subset_of_a_subset_reads_what_it_gives(files, within):
    found = images_of(within(Paths(files)))
    assert sorted(found.keys.values()) == [str(files[2]), str(files[9])]


def test_copies_under_another_name(files, tmp_path):
    copy = tmp_path / "other.png"
    shutil.copy(files[0], copy)
    train, test = Paths(files[:10]), Paths([copy, *files[10:]])
    assert copied_images(images_of(train), images_of(test)) == [str(copy)]
    (fault,) = overlap_faults({"training": train, "test": test})
    assert fault == f"1 of 11 images for test are copies of ones for training: {copy}"


def test_clips_and_frames(files):
    assert len(images_in_both(images_of(Paths(files[:3], "filename")), images_of(Paths(files[2:], "frame_dir")))) == 1


def test_images_in_memory_are_known_by_content():
    train, val, both, test = (
        images_of(MiniVTAB("digits", split)) for split in ("train800", "val200", "train800val200", "test")
    )
    assert (len(train), len(both), len(test)) == (800, 1000, 797)
    assert len(images_in_both(both, val)) == 200
    assert not images_in_both(both, test)
    shifted = images_of(MiniVTAB("digits", "test", shift="noise-3"))
    assert not images_in_both(shifted, test)


def test_the_same_bytes_in_another_shape_are_another_image():
    class Held(Paths):
        def load_data_list(self):
            return [{"img": np.zeros(shape, np.uint8)} for shape in self.paths]

    assert not images_in_both(images_of(Held([(4, 2, 3)])), images_of(Held([(2, 4, 3)])))


def test_what_cannot_be_told_is_a_fault():
    class Bare:
        def __len__(self):
            return 3

    with pytest.raises(UserError, match=r"Bare has no get_data_info\(index\)"):
        images_of(Bare())
    (fault,) = overlap_faults({"training": Paths([1], "other"), "test": None})
    assert "which images are for training cannot be told: samples of Paths have no img_path" in fault


def test_lists_are_known_by_what_they_hold(tmp_path):
    def digest(root, split="train800val200"):
        return lists_digest([{"type": "vpeft.VTAB1k", "data_root": str(root), "task": "dtd", "split": split}])

    a, b = tmp_path / "a", tmp_path / "b"
    for root in (a, b):
        (root / "dtd").mkdir(parents=True)
        (root / "dtd" / "train800val200.txt").write_text("images/x.jpg 3\n")
    assert digest(a) == digest(b) != digest(tmp_path)
    assert digest(tmp_path) is None
    (b / "dtd" / "train800val200.txt").write_text("images/x.jpg 4\n")
    assert digest(a) != digest(b)
    inside = {
        "type": "RepeatDataset",
        "dataset": {"type": "CocoDataset", "data_root": str(tmp_path), "ann_file": "c.json"},
    }
    assert lists_digest([inside]) is None
    (tmp_path / "c.json").write_text("{}")
    assert lists_digest([inside]) is not None
