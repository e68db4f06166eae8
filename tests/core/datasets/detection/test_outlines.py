"""Outlines that would end the process in pycocotools are refused; what it can draw is not."""

import subprocess
import sys

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from vpeft.core.datasets.detection.outlines import is_size, outline_fault

SIZE = (60, 80)
CODE = coco_mask.encode(np.asfortranarray(np.eye(*SIZE, dtype=np.uint8)))["counts"].decode()
SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        [SQUARE],
        [SQUARE, [0.5, 0.5, 200, 0, -20, 9]],
        {"size": [60, 80], "counts": CODE},
        {"size": [60, 80], "counts": [4800]},
        {"size": [60, 80], "counts": [10, 20, 4770]},
    ],
)
def test_what_can_be_drawn(value):
    assert outline_fault(value, SIZE) is None
    if value:
        form = value if isinstance(value, list) or isinstance(value["counts"], list) else None
        drawn = coco_mask.frPyObjects(form, *SIZE) if form else value
        masks = coco_mask.decode(drawn)
        assert masks.shape[:2] == SIZE


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (3, "is neither polygons nor a run-length code"),
        ("x", "is neither polygons"),
        ([[1, "x"]], "is neither polygons"),
        ([[1, float("nan")]], "is neither polygons"),
        ([[10, 10, 2**63, 10, 30, 30]], "reaches further than 65,536 pixels"),
        ([[10, 10, -1e300, 10, 30, 30]], "reaches further"),
        ({"size": [80, 60], "counts": CODE}, r"is a run-length code of the size [80, 60], and its image of [60, 80]"),
        ({"size": [60, 10**6], "counts": CODE}, "is a run-length code of the size [60, 1000000]"),
        ({"size": [-60, -80], "counts": CODE}, "is a run-length code of the size [-60, -80]"),
        ({"size": [60, 80], "counts": [4801]}, "is a run-length code of another number of pixels"),
        ({"size": [60, 80], "counts": [-5, 4805]}, "is a run-length code of another number of pixels"),
        ({"size": [60, 80], "counts": [True] * 4800}, "is a run-length code of another number of pixels"),
        ({"size": [60, 80], "counts": "ab"}, "is no run-length code (ValueError)"),
        ({"size": [60, 80], "counts": 5}, "is neither polygons nor a run-length code"),
        ({"counts": CODE}, "is a run-length code of the size None"),
    ],
)
def test_what_cannot(value, says):
    assert (outline_fault(value, SIZE) or "").startswith(says)


def test_it_would_end_the_process():
    """Why it is looked at: the day that pycocotools refuses it by itself, the check can go."""
    code = "from pycocotools.mask import frPyObjects; frPyObjects([[10, 10, 2**63, 10, 30, 30]], 60, 80)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=100).returncode != 0


@pytest.mark.parametrize(
    ("size", "right"),
    [
        ((60, 80), True),
        ((65536, 1), True),
        ((65537, 1), False),
        ((65536, 65536), False),
        ((0, 5), False),
        ((60.0, 80), False),
        ((True, 80), False),
        (("60", 80), False),
        ((None, None), False),
    ],
)
def test_sizes(size, right):
    assert is_size(*size) == right
