"""Scenes in front of photographs: backgrounds of a split's own regions, and files that mmseg and mmdet read."""

import numpy as np
import pytest
from mmengine.registry import init_default_scope

from vpeft.core.datasets.detection.scenes import RealSceneCoco
from vpeft.core.datasets.embedded.scenes import draw_split
from vpeft.core.datasets.real import scenes
from vpeft.core.datasets.real.scenes import REAL_SCENE_SPLITS, draw_real_split
from vpeft.core.datasets.segmentation.scenes import RealSceneMaps
from vpeft.errors import UserError


@pytest.fixture
def few(monkeypatch):
    """Two images in each split."""
    for split in REAL_SCENE_SPLITS:
        monkeypatch.setitem(REAL_SCENE_SPLITS, split, 2)


def test_the_first_scenes_are_the_same_whatever_the_size():
    two, one = draw_real_split("val", 2), draw_real_split("val", 1)
    assert np.array_equal(two[0].image, one[0].image)
    assert np.array_equal(two[0].masks, one[0].masks)
    assert (one[0].image.shape, one[0].image.dtype) == ((224, 224, 3), np.uint8)
    assert not np.array_equal(two[0].image, two[1].image)
    assert not np.array_equal(draw_real_split("test", 1)[0].image, one[0].image)
    with pytest.raises(UserError, match=r"split 'tests' of the scenes does not exist.*test"):
        draw_real_split("tests")


def test_objects_are_as_large_a_part_of_the_image_as_in_the_embedded_scenes():
    real = [mask.mean() for scene in draw_real_split("train", 12) for mask in scene.masks]
    drawn = [mask.mean() for scene in draw_split("train", 60) for mask in scene.masks]
    assert np.median(real) == pytest.approx(np.median(drawn), rel=0.3)


def test_backgrounds_come_from_regions_of_their_split_alone(monkeypatch):
    seen = {}

    def recorded(picture, regions, side, rng, split="train"):
        seen.setdefault(split, []).append((picture, square := draw(picture, regions, side, rng)))
        return square

    draw = scenes.random_square
    for split, name in (("train", "tune"), ("val", "val"), ("test", "test")):
        monkeypatch.setattr(scenes, "random_square", lambda *args, s=split: recorded(*args, split=s))
        found = draw_real_split(split, 12)
        assert len(seen[split]) == len(found) == 12
        for picture, square in seen[split]:
            own = scenes.regions_of_split(scenes.grid_of(picture), name, scenes.PLACES.index(picture))
            inside = [r for r in own if 0 <= square.y - r.y <= r.height - 98 and 0 <= square.x - r.x <= r.width - 98]
            assert len(inside) == 1
            left = {
                r
                for other in ("tune", "val", "test")
                if other != name
                for r in scenes.regions_of_split(scenes.grid_of(picture), other, scenes.PLACES.index(picture))
            }
            assert inside[0] not in left


def test_label_maps_and_boxes_are_those_of_the_scenes(few, tmp_path):
    init_default_scope("mmseg")
    steps = [{"type": name} for name in ("vpeft.LoadImage", "vpeft.LoadLabelMap", "PackSegInputs")]
    maps = RealSceneMaps(split="val", data_root=str(tmp_path / "maps"), pipeline=steps)
    init_default_scope("mmdet")
    steps = [{"type": "vpeft.LoadImage"}, {"type": "LoadAnnotations", "with_bbox": True}, {"type": "PackDetInputs"}]
    files = {"ann_file": "annotations/instances_val.json", "data_prefix": {"img": "val/"}}
    boxes = RealSceneCoco(data_root=str(tmp_path / "coco"), pipeline=steps, **files)
    assert len(maps) == len(boxes) == 2
    for i, scene in enumerate(draw_real_split("val")):
        assert np.array_equal(maps[i]["data_samples"].gt_sem_seg.data[0].numpy(), scene.label_map)
        objects = boxes[i]["data_samples"].gt_instances
        assert np.array_equal(objects.bboxes.numpy(), scene.boxes)
        assert np.array_equal(objects.labels.numpy(), scene.labels)
        assert np.array_equal(maps[i]["inputs"].numpy()[::-1], scene.image.transpose(2, 0, 1))
