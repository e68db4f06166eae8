"""No test reaches another through the process that they share."""

import logging
import os
import sys

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from support.process import MANAGERS, STATE, same_process

CHANGES = {
    "environment": lambda tmp_path: os.environ.update(PATH="", VPEFT_TRACEBACK="1"),
    "folder": os.chdir,
    "arguments": lambda _: sys.argv.append("--traceback"),
    "hook of uncaught errors": lambda _: setattr(sys, "excepthook", print),
    "logs that cannot be written": lambda _: setattr(logging.Handler, "handleError", print),
    "threads": lambda _: torch.set_num_threads(2),
    "number type": lambda _: torch.set_default_dtype(torch.float64),
    "gradients": lambda _: torch.set_grad_enabled(False),
    "deterministic": lambda _: torch.use_deterministic_algorithms(not torch.are_deterministic_algorithms_enabled()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_test_changes_is_put_back(name, tmp_path):
    read, _ = STATE[name]
    before = read()
    with same_process():
        CHANGES[name](tmp_path)
        assert read() != before
    assert read() == before


def test_nothing_of_an_earlier_run_is_there(tmp_path):
    """Its log file may be closed, its scope another one."""
    MMLogger.get_instance("run", log_file=str(tmp_path / "log"))
    DefaultScope.get_instance("run", scope_name="mmdet")
    with same_process():
        assert not any(manager._instance_dict for manager in MANAGERS)
        DefaultScope.get_instance("another", scope_name="mmseg")
    assert not DefaultScope._instance_dict
