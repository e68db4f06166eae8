"""A schedule of the learning rate that does not end where training does."""

import re

import pytest
from mmengine import Config

from vpeft.apis.run.train import schedule_elsewhere


def steps(*ends, by_epoch=True):
    return [{"type": "CosineAnnealingLR", "by_epoch": by_epoch, "begin": 0, "end": end} for end in ends]


@pytest.mark.parametrize(
    ("loop", "schedule", "said"),
    [
        ({"max_epochs": 20}, steps(3, 20), None),
        ({"max_epochs": 5}, steps(3, 20), r"ends at epoch 5, .* at epoch 20: param_scheduler\.1\.end=5 brings"),
        ({"max_epochs": 50}, steps(3, 20), r"ends at epoch 50, .* at epoch 20: param_scheduler\.1\.end=50 brings"),
        ({"max_iters": 400}, steps(400, by_epoch=False), None),
        ({"max_iters": 300}, steps(400, by_epoch=False), r"at step 300, .* at step 400: param_scheduler\.0\.end=300"),
        ({"max_epochs": 2}, steps(400, by_epoch=False), None),
        ({"max_epochs": 2}, [{"type": "ConstantLR", "factor": 1.0}], None),
        ({"max_epochs": 2}, [], None),
    ],
)
def test_it_is_said(loop, schedule, said):
    found = schedule_elsewhere(Config({"train_cfg": loop, "param_scheduler": schedule}))
    assert (found is None) == (said is None)
    assert found is None or re.search(said, found)
