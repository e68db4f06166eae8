"""A run stops at a loss that is no finite number, whichever it is and wherever it stands."""

from types import SimpleNamespace

import pytest
import torch

from vpeft.core.hooks.loss_guard import LossGuardHook
from vpeft.errors import UserError


def look(tmp_path, value):
    runner = SimpleNamespace(work_dir=str(tmp_path), iter=4, epoch=1)
    LossGuardHook().after_train_iter(runner, 0, outputs={"loss": torch.tensor(1.0), "loss_aux": torch.tensor(value)})


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan"), [1.0, float("inf")]])
def test_what_is_not_finite_stops_the_run(tmp_path, value):
    with pytest.raises(UserError, match=r"loss_aux became .* at iteration 5 \(epoch 2\): training stopped"):
        look(tmp_path, value)


def test_what_is_finite_passes(tmp_path):
    look(tmp_path, [1e30, -1.0])
