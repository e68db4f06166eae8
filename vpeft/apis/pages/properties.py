"""What the columns of the survey's table of categories say, worked out from the methods themselves."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import nn

from vpeft.apis.testing.hosts import TINY
from vpeft.apis.testing.models import ON_CLIPS, again, inputs, tokens
from vpeft.core.adaptation.adaptation import Adaptation
from vpeft.core.adaptation.attach import attach
from vpeft.core.adaptation.contributions import every_site, resizing
from vpeft.core.adaptation.options.on_host import OnHost
from vpeft.core.backbones.find import read_host
from vpeft.core.contract.build import build_method
from vpeft.core.models.build import meta_build
from vpeft.errors import UserError
from vpeft.registry import MODELS, PEFT_METHODS

#: The tiny backbone that methods are attached to, where they attach to it.
TINY_VIT = "mmpretrain.VisionTransformer"
#: Depths and widths at which a formula is read off, and those at which it must hold too.
DEPTHS, WIDTHS, PROOF = (8, 12), (384, 576, 768), ((10, 192), (24, 1024))
#: Powers of the depth and of the width in a formula's terms.
POWERS = tuple(itertools.product((1, 0), (2, 1, 0)))


@dataclass(frozen=True)
class Properties:
    """A method with its defaults.

    Attributes:
        no_modules: It adds no module, in training neither.
        keeps_structure: Once trained (and merged) the network is the plain one, at most with more tokens or keys in it.
        free_inference: Nothing is computed beside the plain network once it is merged.
        saves_memory: Not all blocks' activations are kept for gradients.
        formula: Trained numbers on a plain ViT of L blocks of width D with heads of width 64.
    """

    no_modules: bool
    keeps_structure: bool
    free_inference: bool
    saves_memory: bool
    formula: str


@functools.cache
def properties(name: str) -> Properties:
    """Those of a registered method."""
    method = build_method(name)
    host, model, adaptation = _adapted(name)
    none = next(adaptation.peft_items(), None) is None
    placed = [entry for _, site in every_site(adaptation) for entry in site.entries]
    longer = {id(entry) for entry in resizing(adaptation, lambda: tokens(model, inputs(host)))}
    only_longer = bool(placed) and all(id(entry) in longer for entry in placed)
    free = none or method.mergeable
    return Properties(none, free or only_longer, free, method.memory[:2] != "M2", formula(name))


def _adapted(name: str) -> tuple[str, nn.Module, Adaptation]:
    """The tiny ViT with the method, or the first tiny backbone that takes it: a method may ask for clips."""
    refusal = None
    for host in (TINY_VIT, *ON_CLIPS, *sorted(TINY)):
        model = again(host, torch.float32)
        try:
            (adaptation,) = attach(model, [build_method(name)])
        except UserError as error:
            refusal = error
        else:
            return host, model, adaptation
    raise refusal


def formula(name: str) -> str:
    """``16 L D + 3 L``, or empty where its count is no such polynomial."""
    count = counting(name)
    try:
        return polynomial(count)
    except (UserError, ValueError):
        return ""


@functools.cache
def vit(depth: int, width: int) -> nn.Module:
    """A plain ViT for images of 224, without memory."""
    arch = {"embed_dims": width, "num_layers": depth, "num_heads": width // 64, "feedforward_channels": 4 * width}
    with meta_build():
        return MODELS.build({"type": "VisionTransformer", "_scope_": "mmpretrain", "arch": arch})


def counting(name: str) -> Callable[[int, int], int]:
    """Trained numbers of a method, with its defaults, by depth and width of a ViT."""

    def count(depth: int, width: int) -> int:
        return OnHost(build_method(name), read_host(vit(depth, width)), name).count()

    return count


def polynomial(count: Callable[[int, int], int]) -> str:
    """A function of depth L and width D as a polynomial, first degree in L and second in D.

    Raises:
        ValueError: It is none.
    """
    by_width = [_line(DEPTHS, [count(depth, width) for depth in DEPTHS]) for width in WIDTHS]
    # For each power of L the coefficients of D^2, D and 1.
    found = [_parabola(WIDTHS, [line[power] for line in by_width]) for power in (0, 1)]
    terms = dict(zip(POWERS, [*found[0], *found[1]], strict=True))
    for depth, width in PROOF:
        said = sum(factor * depth**in_depth * width**in_width for (in_depth, in_width), factor in terms.items())
        if said != count(depth, width):
            raise ValueError(f"no polynomial: {said} in the place of {count(depth, width)} at {depth}, {width}")
    words = [_term(factor, *powers) for powers, factor in terms.items() if factor]
    return " + ".join(words).replace("+ -", "- ") or "0"


def _line(at: Sequence[int], values: Sequence[int]) -> tuple[Fraction, Fraction]:
    slope = Fraction(values[1] - values[0], at[1] - at[0])
    return slope, values[0] - slope * at[0]


def _parabola(at: Sequence[int], values: Sequence[Fraction]) -> tuple[Fraction, Fraction, Fraction]:
    (x, y, z), (a, b, c) = at, values
    first, second = (b - a) / (y - x), (c - b) / (z - y)
    square = (second - first) / (z - x)
    linear = first - square * (x + y)
    return square, linear, a - linear * x - square * x * x


def _term(factor: Fraction, in_depth: int, in_width: int) -> str:
    letters = ["L"] * in_depth + ["D" if in_width == 1 else "D²"] * bool(in_width)
    shown = "" if letters and factor == 1 else f"{int(factor):,}" if factor.denominator == 1 else f"({factor})"
    return " ".join([shown, *letters]).strip()


def every_method() -> list[str]:
    """By category, then by name."""
    return sorted(PEFT_METHODS.module_dict, key=lambda n: (PEFT_METHODS.get(n).category, n.lower()))
