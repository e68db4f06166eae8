"""``consistency``: PACE (NeurIPS 2024), noise on what a method adds and agreement of two passes.

In training a unit that a method stands beside becomes ``h = base(x) + delta(x) * (1 + e)``, ``e ~ N(0, sigma_l^2)``,
one draw per sample and channel, the same for all tokens, and for all windows of an image (the released code draws one
for each window). Unit l of L noisy ones has ``sigma_l = sigma (L - l) / L``, l from 0: the blocks, and last the head,
whose class scores are what it adds to nothing. In evaluation there is no noise.

What is added to the loss stands in :mod:`vpeft.core.adaptation.training.consistency`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.backbones.sites.passes import in_program
from vpeft.core.contract.values import fits, words
from vpeft.errors import UserError, closest

KINDS = ("full", "lazy", "fast")
#: Where what is placed adds to what the base gives.
ADDING = ("parallel", "beside")
#: What the settings take: lowest and highest value.
_NUMBERS: dict[str, tuple[type, float, float]] = {
    "sigma": (float, 1e-9, 100),
    "weight": (float, 0, 1e6),
    "every": (int, 1, 2**16),
    "free": (int, 0, 2**16),
}


@dataclass(frozen=True)
class Consistency:
    """The settings of PACE.

    Args:
        sigma: Spread of the noise in the first noisy block.
        weight: What the squared distance of the two passes' scores is multiplied by.
        kind: ``full`` (two passes in every step), ``lazy`` (in every ``every``-th step, on half of the batch, which is
            then all that is trained on) or ``fast`` (one pass; the other scores are those of the image in the last
            epoch, zeros in the first, as in the released code).
        every: Of ``lazy`` alone; 2 where it is left out.
        free: Blocks at the start without noise. None means one, and none in a backbone whose blocks differ in width
            (the released code: one in ViT, none in Swin).
    """

    sigma: float
    weight: float = 1.0
    kind: str = "full"
    every: int | None = None
    free: int | None = None

    @property
    def step(self) -> int:
        """Every how many steps there are two passes."""
        return 2 if self.every is None else self.every

    def spreads(self, host: Host) -> list[float]:
        """sigma of every block of a host, or of a part of one, and of the head."""
        blocks = len(host.blocks)
        free = self.free
        if free is None:
            free = int(len({block.dim for block in host.blocks}) == 1)
        count = blocks + 1 - free
        return [0.0] * free + [self.sigma * (count - i) / count for i in range(count)]


def noise_settings(given: Mapping[str, Any], method: str) -> Consistency:
    """The settings that a dict states.

    Raises:
        UserError: One is missing, unknown, or not what it must be.
    """
    known = list(Consistency.__dataclass_fields__)
    for key, value in given.items():
        if key not in known:
            near = closest(key, known)
            hint = f" (did you mean {near!r}?)" if near else ""
            raise UserError(f"{method}: consistency has no {key!r}{hint}: it has {', '.join(known)}.")
        if key == "kind":
            if value not in KINDS:
                raise UserError(f"{method}: consistency kind={value!r} must be one of {', '.join(map(repr, KINDS))}.")
            continue
        kind, *limits = _NUMBERS[key]
        if not fits(value, kind, tuple(limits)) and not (key == "free" and value is None):
            raise UserError(f"{method}: consistency {key}={value!r} must be {words(kind, tuple(limits))}.")
    if "sigma" not in given:
        raise UserError(f"{method}: consistency needs sigma, the spread of its noise: dict(sigma=1.2, weight=1).")
    made = Consistency(**given)
    if made.every is not None and made.kind != "lazy":
        raise UserError(f"{method}: consistency every={made.every} is of kind='lazy', and this is {made.kind!r}.")
    return made


def put_noise(host: Host, key: str, made: Consistency, method: str, trains: bool) -> None:
    """Let everything that a method has placed on a host, or a part of one, be noisy in training.

    Args:
        host: The host.
        key: The method's key.
        made: The settings.
        method: Its name, for messages.
        trains: Whether it trains existing parameters itself.

    Raises:
        UserError: It does not only add to what the base gives, or has no block that is noisy.
    """
    outside = [entry for site in host.sites.values() for entry in site.entries if entry.key == key]
    placed = [
        (number, site, entry)
        for number, block in enumerate(host.blocks)
        for site in block.sites.values()
        for entry in site.entries
        if entry.key == key
    ]
    others = sorted({e.placement for _, _, e in placed if e.placement not in ADDING} | {e.placement for e in outside})
    if others or trains or not placed:
        does = "trains the base's own parameters" if trains and not others else f"places modules {', '.join(others)}"
        does = does if others or trains else "places no module in a block"
        raise UserError(
            f"{method}: consistency is for methods that only add to what a block's units give, and this one {does}: "
            "leave it out, or take LoRA, AdaptFormer or another that stands parallel."
        )
    spreads = made.spreads(host)
    if not any(spreads[: len(host.blocks)]):
        raise UserError(f"{method}: consistency free={made.free} leaves none of its {len(host.blocks)} blocks noisy.")
    for number, site, entry in placed:
        if spreads[number]:
            entry.noise = Noise(spreads[number], f"{site.index} {site.name} {site.entries.index(entry)}")
    host.passes.noisy = True


class Noise:
    """Multiplicative noise on what one placed module adds.

    The numbers follow from the pass, where it begins, and from the place: a block that activation checkpointing runs
    again draws the same.

    Args:
        sigma: Its spread.
        place: A text that no other place has.
    """

    def __init__(self, sigma: float, place: str) -> None:
        self.sigma, self.place = sigma, place

    def over(self, module: nn.Module) -> Noisy:
        """A placed module with the noise."""
        return Noisy(self, module)

    def factor(self, y: Tensor, drawn: tuple[int, int] | None) -> Tensor:
        """``1 + e`` for a stream ``(B, ..., C)``, or one of windows, image by image.

        Args:
            y: What is multiplied.
            drawn: Seed of the pass, and its samples.
        """
        if in_program():
            raise UserError("consistency draws its noise anew in every pass: train without torch.compile.")
        seed, samples = drawn or (int(torch.randint(2**31, ())), len(y))
        samples = len(y) if len(y) % samples else samples
        digest = hashlib.blake2b(f"{seed} {self.place}".encode(), digest_size=7).digest()
        generator = torch.Generator(y.device).manual_seed(int.from_bytes(digest, "big"))
        factor = 1 + self.sigma * torch.randn(samples, y.shape[-1], generator=generator, device=y.device)
        factor = factor.repeat_interleave(len(y) // samples, dim=0)
        return factor.view(len(y), *[1] * (y.dim() - 2), y.shape[-1]).to(y.dtype)


class Noisy:
    """What a site runs in the place of a placed module."""

    def __init__(self, noise: Noise, module: nn.Module) -> None:
        self.noise, self.module = noise, module

    def __call__(self, x: Tensor, flow: Flow) -> Tensor:
        y = self.module(x, flow)
        return y * self.noise.factor(y, flow.drawn)

    def add_to(self, y: Tensor, x: Tensor, flow: Flow) -> Tensor:
        """``y + delta * (1 + e)``."""
        add_to = getattr(self.module, "add_to", None)
        # Some write into y.
        delta = self.module(x, flow) if add_to is None else add_to(y.clone(), x, flow) - y
        return y + delta * self.noise.factor(delta, flow.drawn)
