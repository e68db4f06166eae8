"""A run that would train nothing is stopped before its first step."""

import logging
from types import SimpleNamespace

import pytest
from support.hosts import build

import vpeft
from vpeft.core.hooks.peft_hook import PEFTHook
from vpeft.errors import UserError


def test_a_model_of_frozen_parameters_is_not_trained():
    model = vpeft.attach(build("mmpretrain.VisionTransformer"), "Linear")
    runner = SimpleNamespace(model=model, logger=logging.getLogger("nothing"))
    with pytest.raises(UserError, match="nothing is trained: neither the method nor a head"):
        PEFTHook().before_train(runner)
