"""A method on a host, under its options: through this alone the mechanism calls a method."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from vpeft.core.adaptation.options.blocks import chosen_part, sized_parts
from vpeft.core.adaptation.options.extra import check_extra, is_extra
from vpeft.core.adaptation.options.noise import Consistency, noise_settings, put_noise
from vpeft.core.adaptation.options.packed import check_bits, pack, unpacked
from vpeft.core.adaptation.options.saving import check_saving, put_saving
from vpeft.core.adaptation.options.unread import check_unread, need_alone, put_unread
from vpeft.core.backbones.block import HostParam
from vpeft.core.backbones.host import PEFT_KEY, Host
from vpeft.core.contract.method import Method
from vpeft.core.contract.subnets import SubnetSpace
from vpeft.core.contract.training import TrainingData, TrainingPass, TrainingStep
from vpeft.errors import UserError


class OnHost:
    """What a method is on a host.

    ``blocks`` makes :attr:`part` of the host, which is all that the method sees; sizes by stage or block split it into
    :attr:`pieces`, each with a method of plain sizes; ``extra`` adds existing parameters to those that it trains.

    Attributes:
        method: The method, with what it leaves to the host filled in.
        host: The host.
        key: The method's component in the keys of its parameters.
        part: What of the host it is in; the host itself without ``blocks``.
        pieces: Methods with plain sizes, each with its part of the host; one pair without sizes by stage or block.
    """

    def __init__(self, method: Method, host: Host, key: str) -> None:
        self.host, self.key = host, key
        self.part = chosen_part(method, host)
        self.method = method.settled(self.part)
        self.pieces = sized_parts(self.method, self.part)

    def each(self) -> Iterator[tuple[Method, Host]]:
        """The pieces, one after the other, with the host ready for the method."""
        for method, part in self.pieces:
            self.host.method_key = part.method_key = self.key
            yield method, part

    def check(self, params: Sequence[HostParam]) -> None:
        """Refuse hyper-parameters and options that do not fit the host."""
        self.method.need_blocks(self.host)
        self.method.need_clips(self.host)
        for method, part in self.each():
            method.check(part)
        name = self.method.registered_name()
        check_extra(self.method.extra, params, self.part, name)
        check_bits(self.method.bits, self.method.bits_error, name)
        check_saving(self.method, self.host)
        check_unread(self.method, self.host)
        self.own_trained = any(self._trains_itself(p) for p in params)

    def build(self) -> int | None:
        """Make and place the method's modules; gives the width of the head's features where it is not the host's."""
        width = None
        for method, part in self.each():
            method.build(part)
            width = method.out_width(part)
        name = self.method.registered_name()
        self.host.passes.read_later |= self.method.adds_losses
        if self.method.bits is not None:
            pack(self.modules(), self.method.bits, self.method.bits_error, name)
        if (noise := self.consistency()) is not None:
            put_noise(self.part, self.key, noise, name, self.own_trained)
        if self.method.save_memory is not None:
            put_saving(self.host)
        if self.method.skip_unread:
            put_unread(self.host)
        need_alone(self.method, self.host, self.key)
        return width

    def modules(self) -> Iterator[nn.Module]:
        """All that it has made."""
        for owner in self.host.owners:
            if PEFT_KEY in owner._modules and self.key in owner._modules[PEFT_KEY]:
                yield from owner._modules[PEFT_KEY][self.key].values()

    def consistency(self) -> Consistency | None:
        """The settings of its noise; None without."""
        stated = self.method.consistency
        return None if stated is None else noise_settings(stated, self.method.registered_name())

    def trains(self, p: HostParam) -> bool:
        """Whether an existing parameter is trained."""
        return self._trains_itself(p) or is_extra(p, self.method.extra, self.part)

    def count(self) -> int:
        """Trainable parameters by the method's formula, and those that are trained beside it."""
        beside = (p.param.numel() for p in (self.host.parameters() if self.method.extra else ()) if self._is_beside(p))
        return sum(method.count(part) for method, part in self.pieces) + sum(beside)

    def learn(self, data: TrainingData) -> None:
        """Let it select from the training data."""
        if len(self.pieces) > 1:
            data = dataclasses.replace(data, batches=list(data.batches))
        for method, part in self.each():
            method.learn(part, data)

    def pruned(self, data: TrainingData) -> Method | None:
        """What it becomes after training, or None."""
        if len(self.pieces) > 1 and type(self.method).pruned is not Method.pruned:
            raise UserError(f"{self.method.registered_name()} prunes with sizes that are the same in all blocks alone.")
        ((method, part),) = self.each() if len(self.pieces) == 1 else ((self.method, self.part),)
        return method.pruned(part, data)

    def subnet_space(self, settings: Mapping[str, Any]) -> SubnetSpace | None:
        """The space of its subnets; None where it has none."""
        if len(self.pieces) > 1 and type(self.method).subnet_space is not Method.subnet_space:
            raise UserError(f"{self.method.registered_name()}: a supernet has the same sizes in all blocks.")
        return self.method.subnet_space(self.part, self.key, settings)

    def losses(self, training: TrainingPass) -> dict[str, Tensor]:
        """Losses that it adds to the task's."""
        ((method, part),) = self.each()
        return method.losses(part, training)

    def after_step(self, step: TrainingStep) -> None:
        """Let it act after a step of the optimiser, on its matrices as they are."""
        with ExitStack() as stack:
            for module in self.modules() if self.method.bits is not None else ():
                stack.enter_context(unpacked(module))
            for method, part in self.each():
                method.after_step(part, step)

    def _trains_itself(self, p: HostParam) -> bool:
        return any(
            (part.part is None or part.part.owns(p.block, p.site)) and method.trains(p) for method, part in self.pieces
        )

    def _is_beside(self, p: HostParam) -> bool:
        return is_extra(p, self.method.extra, self.part) and not self._trains_itself(p)
