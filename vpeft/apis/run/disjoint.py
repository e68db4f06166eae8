"""Whether a run is trained, validated and tested on different images."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from vpeft.core.datasets.identity import overlap_faults
from vpeft.errors import UserError


def data_of(runner: Runner) -> dict[str, Any]:
    """The data sets of a runner by use, None where one is not built; :func:`.overlap_faults` takes them."""
    loops = {"training": runner._train_loop, "validation": runner._val_loop, "test": runner._test_loop}
    loaders = {use: getattr(loop, "dataloader", None) for use, loop in loops.items()}
    return {use: None if loader is None else loader.dataset for use, loader in loaders.items()}


class DisjointHook(Hook):
    """Says before the first step where images are trained on and validated on, and refuses it in a search.

    Args:
        refuse: What is being done in which it cannot be let pass, such as ``a search``.
    """

    def __init__(self, refuse: str | None = None) -> None:
        self.refuse = refuse

    def before_train(self, runner: Runner) -> None:
        """Compare."""
        faults = overlap_faults(data_of(runner))
        if faults and self.refuse:
            raise UserError(f"{self.refuse} chooses by images that it was not trained on, and {faults[0]}.")
        for fault in faults:
            print_log(f"off the protocol: {fault}", "current", logging.WARNING)
