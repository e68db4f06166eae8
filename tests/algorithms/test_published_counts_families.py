"""Parameters of the backbone on the dense and video hosts, with the settings of the tables of methods."""

from pathlib import Path

import pytest
from support.design import METHODS, ON_IMAGES

from vpeft.apis.config.recipes import method_rows
from vpeft.apis.pages.methods import COUNTED, count_on
from vpeft.core.contract.build import build_method

TABLES = Path(__file__).parents[2] / "configs" / "_base_" / "methods"
NO_TABLES = {"include_rel_pos_bias": False}

#: Backbone, row of its table of methods, changes of it, count.
COUNTS = [
    ("Swin-B", "lntune", {}, 59_392),
    ("Swin-L", "lntune", {}, 89_088),
    ("Swin-B", "bitfit", NO_TABLES, 138_112),
    ("Swin-L", "bitfit", NO_TABLES, 207_168),
    ("Swin-B", "bitfit", {}, 201_656),
    ("Swin-L", "bitfit", {}, 302_484),
    ("Swin-B", "houlsby", {}, 3_107_328),
    ("Swin-L", "houlsby", {}, 4_659_456),
    ("Swin-B", "lora", {}, 3_080_192),
    ("Swin-L", "lora", {}, 4_620_288),
    ("Swin-B", "adaptformer", {}, 1_553_664),
    ("Swin-L", "adaptformer", {}, 2_329_728),
    ("Swin-B", "mona", {}, 3_667_456),
    ("Swin-L", "mona", {}, 5_267_712),
    ("Swin-B", "colin", {}, 1_703_424),
    ("Swin-L", "colin", {}, 2_389_248),
    ("Swin-B", "lorand", {}, 1_197_312),
    ("Swin-L", "lorand", {}, 1_792_896),
    ("Swin-B", "lorand", {"shared_kernel": False}, 1_203_456),
    ("Swin-L", "lorand", {"shared_kernel": False}, 1_799_040),
    ("Swin-B", "partial1", {}, 12_601_632),
    ("Swin-L", "partial1", {}, 28_339_632),
    ("VideoMAE ViT-B", "adaptformer", {}, 1_189_632),
    ("VideoMAE ViT-B", "bapat", {}, 2_093_184),
    ("Video Swin-B", "lora", {}, 770_048),
    ("Video Swin-B", "bitfit", {}, 1_090_376),
    ("Video Swin-B", "adaptformer", {}, 1_553_664),
    ("Video Swin-B", "bapat", {}, 6_201_088),
]


@pytest.mark.parametrize(("backbone", "row", "changes", "count"), COUNTS)
def test_count(backbone, row, changes, count):
    methods, _ = method_rows(TABLES / f"{COUNTED[backbone][0]}.py")
    assert count_on(backbone, build_method({**methods[row], **changes})) == count


def test_a_row_for_every_method():
    """Tables of images have one for each method that is defined there, those of clips for each registered one."""
    tables = {"dense": ON_IMAGES, "nano": ON_IMAGES, "video": METHODS, "video_swin": METHODS, "nano_video": METHODS}
    for file in [TABLES / f"{name}.py" for name in tables]:
        methods, options = method_rows(file)
        assert sorted(row["type"] for row in methods.values()) == sorted(tables[file.stem]), file.stem
        assert set(options) <= set(methods)
