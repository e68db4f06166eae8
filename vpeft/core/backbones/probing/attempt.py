"""A pass that is only tried: whether a backbone runs the way that it was read, before anything is trained."""

from __future__ import annotations

import itertools
import logging
from contextlib import ExitStack
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from vpeft.core.backbones.host import Host
from vpeft.core.backbones.probing.at_rest import at_rest
from vpeft.core.backbones.probing.inputs import guesses
from vpeft.core.backbones.probing.traceless import traceless
from vpeft.errors import UserError

#: So many shapes of images are tried.
TRIED = 3


def try_pass(host: Host) -> None:
    """Run an adopted backbone on a guessed image with its adapter switched off, without computing anything.

    A backbone that does not run so (it takes no image, or is no module that is called) is left to its passes.

    Raises:
        UserError: A pass refuses it: its tokens are not those of the map, or its blocks run in another order.
    """
    backbone = host.backbone
    for _, call in itertools.islice(guesses(backbone), TRIED):
        with ExitStack() as stack:
            stack.enter_context(at_rest(backbone))
            stack.enter_context(mock.patch.object(logging.getLogger(FakeTensorMode.__module__), "disabled", True))
            stack.enter_context(traceless(backbone))
            stack.enter_context(mock.patch.object(host.passes, "enabled", False))
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            stack.enter_context(torch.no_grad())
            try:
                call(backbone)
                return
            except UserError:
                raise
            except Exception:
                continue
            finally:
                host.passes.forget()
