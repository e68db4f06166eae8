"""One method on one tiny backbone, as the checks of the contract see it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vpeft.apis.adapters import attach
from vpeft.apis.testing.differences import listed
from vpeft.apis.testing.hosts import TINY, Shape, tiny_of
from vpeft.apis.testing.models import again, build, head_prefixes, inputs, key_biases, loss, seeded, tokens, trained
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.contract.method import Method
from vpeft.errors import MethodFault, UserError, one_line
from vpeft.registry import PEFT_METHODS


class ContractError(AssertionError):
    """A method does not keep the contract: where, what differs, and what to do."""


class NotHere(Exception):
    """A check says nothing of this method on this host, or the host rightly refuses the method; why."""


@dataclass
class Case:
    """A method on a tiny backbone.

    Attributes:
        host: Name of the tiny backbone.
        config: The method's, with its name under ``type``.
        folder: An empty one for files.
    """

    host: str
    config: Mapping[str, Any]
    folder: Path

    @cached_property
    def cls(self) -> type[Method]:
        """The method's class."""
        return PEFT_METHODS.get(self.config["type"])

    def images(self, dtype: torch.dtype = torch.float64, shape: Shape | None = None, count: int = 2) -> Tensor:
        """A batch that the backbone takes."""
        return inputs(self.host, count, dtype, shape=shape)

    def adapted(self, dtype: torch.dtype = torch.float64, **options) -> nn.Module:
        """The tiny backbone with the method attached.

        Raises:
            NotHere: The host refuses the method, in words that name the host.
            ContractError: The refusal is a fault of the method.
        """
        model = build(self.host, dtype, **options) if options else again(self.host, dtype)
        seeded(11)
        try:
            return attach(model, dict(self.config))
        except MethodFault as error:
            raise ContractError(one_line(error)) from error
        except UserError as error:
            self._refused(one_line(error))
            raise NotHere(one_line(error)) from error

    def _refused(self, words: str) -> None:
        name = self.host.split("/")[0]
        if name not in words:
            raise ContractError(
                f"a refusal has to name the host, {name} (host.registered_name()), and this one does not: {words}"
            )

    def attached(self, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module]:
        """A plain backbone and the same with the method attached; the same base parameters of both are trained."""
        plain, model = again(self.host, dtype), self.adapted(dtype)
        ask_like(plain, model)
        return plain, model

    def other_size(self) -> tuple[dict[str, Any], Shape] | None:
        """Options and shape of another size of input, None where the backbone takes one alone."""
        return TINY[self.host].variants.get("other-size") if self.host in TINY else None

    @property
    def shape(self) -> Shape:
        """Of one input."""
        return tiny_of(self.host).shape


def ask_like(plain: nn.Module, model: nn.Module) -> None:
    """Let the same parameters ask for a gradient: torch's products round differently where a weight does."""
    asks = {key: p.requires_grad for key, p in model.named_parameters()}
    for key, param in plain.named_parameters():
        param.requires_grad_(asks[key])


def own_and_rest(model: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """The parameters that the method trains, and those without a head inside the backbone."""
    heads = head_prefixes(model)
    rest = {k: p for k, p in model.named_parameters() if not (heads and k.startswith(heads))}
    return trained(model), rest


def without_gradient(model: nn.Module, x: Tensor) -> list[str]:
    """Trained tensors that a few passes give none, so that no chance of DropPath and dropout hides one."""
    unfelt, missing = key_biases(model), []
    own = {key: param for key, param in trained(model).items() if key not in unfelt}
    for seed in range(8):
        out = loss(tokens(model, x, seed=seed))
        if out.requires_grad:
            out.backward()
        missing = [key for key, param in own.items() if param.grad is None or not param.grad.any()]
        if not missing:
            break
    return missing


def need_gradients(model: nn.Module, x: Tensor, when: str = "") -> None:
    """Raise where a trained tensor gets no gradient."""
    if missing := without_gradient(model, x):
        raise ContractError(
            f"{listed(missing)} {'is' if len(missing) == 1 else 'are'} trained and got no gradient{when}, though every "
            "trained tensor was moved away from its start: forward does not use it, cuts it off (detach, .data, "
            "no_grad), or multiplies it with a constant zero. Use it, or keep it as a buffer if it is not trained."
        )


def block_modules(model: nn.Module) -> list[nn.Module]:
    """The blocks of the adapted backbone, in order."""
    return [block.module for block in get_adaptation(model).host.blocks]


@contextlib.contextmanager
def one_kernel_of_attention() -> Iterator[None]:
    """Torch's own attention over frozen weights alone takes a kernel that rounds in another way: not in here."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
