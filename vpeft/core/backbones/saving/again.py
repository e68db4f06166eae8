"""Operations that are run again in the backward pass, as far as it needs what they saved.

As activation checkpointing (Chen et al., Training Deep Nets with Sublinear Memory Cost, 1604.06174) of a part that
chooses: only wide tensors are dropped, and the second run ends with the last of them. So an MLP keeps its input in the
place of its hidden layers, and of the two linears only the first runs twice. The same numbers come out, to the bit.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import get_device_states, set_device_states

from vpeft.core.backbones.saving.source import Keeping, Source
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.backbones.sites.passes import Passes, in_program
from vpeft.errors import UserError

Operation = Callable[[Tensor], Tensor]


class _EnoughError(Exception):
    """All that was dropped is there again."""


class SecondRun:
    """One run of an operation whose wide tensors are not kept.

    Args:
        operation: The operation; it draws and looks up nothing but what torch's generators and the pass give.
        x: Its input.
        widths: Numbers for each token of the input, and of a tensor that is wide.
        passes: The host's passes.
        index: Index of the block.
    """

    def __init__(
        self, operation: Operation, x: Tensor, widths: tuple[int, int], passes: Passes, index: int | None
    ) -> None:
        self.operation, self.passes, self.kind = operation, passes, x.device.type
        self.source, self.keeping, self.needs_gradient = Source(x), Keeping(), x.requires_grad
        flow = passes.at(index, x)
        self.flow = _as_it_is(flow)
        self.autocast = [_autocast(kind) for kind in dict.fromkeys(("cpu", x.device.type))]
        self.cpu_state = torch.get_rng_state()
        self.devices, self.states = get_device_states(x)
        self.tokens, self.width, self.count = x.numel() // widths[0], widths[1], 0
        self.values: dict[int, Tensor] = {}

    def run(self, x: Tensor) -> Tensor:
        """The operation on its input."""
        with saved_tensors_hooks(self.pack, self.unpack):
            return self.operation(x)

    def drops(self, t: Tensor) -> bool:
        # A weight may have as many numbers, but rarely as many rows as there are tokens.
        return t.numel() >= self.tokens * self.width and (t.dim() > 2 or t.shape[0] == self.tokens)

    def pack(self, t: Tensor) -> Any:
        if self.drops(t):
            self.count += 1
            return self.count - 1
        if self.source.holds(t) and self.source.operation is not None:
            return t.shape, t.stride()
        return [self.keeping.keep(t)]

    def unpack(self, kept: Any) -> Tensor:
        if isinstance(kept, list):
            return self.keeping.give(kept[0])
        if isinstance(kept, tuple):
            return self.source.value().as_strided(*kept)
        if kept not in self.values:
            self.values = dict(enumerate(self.made()))
        return self.values.pop(kept)

    def made(self) -> list[Tensor]:
        """What was dropped, in order, by a second run."""
        x, made = self.source.value().requires_grad_(self.needs_gradient), []

        def pack(t: Tensor) -> None:
            if self.drops(t):
                made.append(t.detach())
                if len(made) == self.count:
                    raise _EnoughError

        self.passes.repeat(_as_it_is(self.flow))
        with contextlib.ExitStack() as stack:
            for setting in self.autocast:
                stack.enter_context(torch.autocast(**setting))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(self._drawn())
            stack.enter_context(contextlib.suppress(_EnoughError))
            stack.enter_context(saved_tensors_hooks(pack, _never))
            self.operation(x)
        if len(made) != self.count:
            raise UserError(
                "save_memory: an MLP that was run again in the backward pass saved other tensors than before: leave "
                "what it computes and its train mode as they are between forward and backward."
            )
        return made

    @contextlib.contextmanager
    def _drawn(self) -> Iterator[None]:
        """Random numbers are those of the first run, and go on afterwards as if there were none."""
        with torch.random.fork_rng(self.devices, device_type=self.kind if self.devices else "cuda"):
            torch.set_rng_state(self.cpu_state)
            if self.devices:
                set_device_states(self.devices, self.states, device_type=self.kind)
            yield


def run_again(operation: Operation, x: Tensor, widths: tuple[int, int], passes: Passes, index: int | None) -> Tensor:
    """``operation(x)``, which keeps its input in the place of its wide tensors, where there is a gradient.

    Args:
        operation: This and the others as :class:`SecondRun` has them.
        x: Its input.
        widths: Numbers for each token.
        passes: The host's passes.
        index: Index of the block.

    Raises:
        UserError: torch.compile, which chooses by itself what is kept.
    """
    if not torch.is_grad_enabled() or torch.jit.is_tracing():
        return operation(x)
    if in_program():
        raise UserError("save_memory: torch.compile chooses by itself what is kept: leave one of the two out.")
    return SecondRun(operation, x, widths, passes, index).run(x)


def _as_it_is(flow: Flow) -> Flow:
    """A pass as it is now, which the same pass does not change any more."""
    other = copy.copy(flow)
    other.state = {key: dict(kept) for key, kept in flow.state.items()}
    other.shares = {name: {key: dict(kept) for key, kept in own.items()} for name, own in flow.shares.items()}
    return other


def _autocast(kind: str) -> dict[str, Any]:
    return {
        "device_type": kind,
        "enabled": torch.is_autocast_enabled(kind),
        "dtype": torch.get_autocast_dtype(kind),
        "cache_enabled": torch.is_autocast_cache_enabled(),
    }


def _never(kept: Any) -> Tensor:
    raise AssertionError("nothing of the second run is differentiated")
