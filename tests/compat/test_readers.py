"""The libraries' inferencers read files as a run does, and take arrays as they do."""

import numpy as np
import pytest
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from PIL import Image

from vpeft.core.datasets.load.image import LoadImage

READ = {"type": "vpeft.LoadImage", "exif": False}


@pytest.fixture
def file(tmp_path):
    """Grey of 16 bits, turned by EXIF: read otherwise by OpenCV."""
    tag = Image.Exif()
    tag[0x0112] = 6
    Image.fromarray(np.arange(48, dtype=np.uint16).reshape(6, 8) * 1300).save(tmp_path / "a.png", exif=tag)
    return str(tmp_path / "a.png")


def pipeline(cls, steps, scope):
    inferencer = object.__new__(cls)
    cfg = ConfigDict(test_dataloader=ConfigDict(dataset=ConfigDict(pipeline=steps)))
    with DefaultScope.overwrite_default_scope(scope):
        return cls._init_pipeline(inferencer, cfg)


def check(made, file):
    want = LoadImage.read(file, exif=False)
    assert want.shape == (6, 8, 3)
    assert want.max() > 200
    for given in (file, want, {"img_path": file}):
        found = made(given)["inputs"].permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(found, want)


def test_the_inferencer_of_mmdet(file):
    from mmdet.apis import DetInferencer

    check(pipeline(DetInferencer, [READ, {"type": "PackDetInputs", "meta_keys": ("img_path",)}], "mmdet"), file)


def test_the_inferencer_of_mmseg(file):
    from mmseg.apis import MMSegInferencer

    steps = [READ, {"type": "vpeft.LoadLabelMap"}, {"type": "PackSegInputs", "meta_keys": ("img_path",)}]
    check(pipeline(MMSegInferencer, steps, "mmseg"), file)


def test_a_pipeline_of_theirs_is_left_to_them(file):
    from mmseg.apis import MMSegInferencer

    steps = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}, {"type": "PackSegInputs"}]
    made = pipeline(MMSegInferencer, steps, "mmseg")
    assert type(made.transforms[0].from_file).__name__ == "LoadImageFromFile"
    assert len(made.transforms) == 2
    with pytest.raises(ValueError, match="LoadImageFromFile is not found"):
        pipeline(MMSegInferencer, [{"type": "PackSegInputs"}], "mmseg")
