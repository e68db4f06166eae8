"""GLoRA: generalised LoRA, a supernet of which a subnet is searched."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.block import Block
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.backbones.sites.site import Site
from vpeft.core.backbones.sites.stated_linear import StatedLinear, bias_size
from vpeft.core.contract.method import Method
from vpeft.core.contract.subnets import SubnetSpace
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS

SITES = ("qkv", "proj", "fc1", "fc2")
#: The forms that each of the five may have: low rank, vector, constant, none.
FORMS = {"A": "lvcn", "B": "lvcn", "C": "lvn", "D": "vcn", "E": "vcn"}
WHOLE = "lllvv"


class Generalised(nn.Module):
    """``(W * A + B) x + W C + D * b + E`` of a linear ``W x + b``, each of the five in the form that a word names.

    A and B are ``down up``, (out, r) (r, in); as a vector the first column of ``down``, as a constant its first number.
    C is the same of (in, r) (r, 1), D and E are vectors (out,), or their first number. A subnet is another word for the
    same tensors.

    Args:
        site: The linear; its weight and bias are read as they are.
        size: Its inputs and outputs.
        rank: r.
        word: Five letters for A to E.
    """

    def __init__(self, site: Site, size: tuple[int, int], rank: int, word: str) -> None:
        super().__init__()
        self.operation, self.outputs, self.word = (
            (site.module,),
            size[1],
            word,
        )  # in a tuple, so that torch registers it once
        self.down, self.up, self.shift = (nn.ParameterDict() for _ in range(3))
        for name, form, (first, second) in path_shapes(size, rank, word):
            if name in "DE":
                self.shift[name] = torch.empty(first)
                continue
            self.down[name] = torch.empty(first, second[0])
            if form == "l":
                self.up[name] = torch.empty(second)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The upper factors Xavier-uniform, everything else zero."""
        for parameter in (*self.down.values(), *self.shift.values()):
            nn.init.zeros_(parameter)
        for parameter in self.up.values():
            nn.init.xavier_uniform_(parameter)

    def form(self, name: str) -> str:
        """The letter of one of the five."""
        return self.word["ABCDE".index(name)]

    def factor(self, name: str) -> Tensor | None:
        """A, B or C in a shape that spreads over its matrix; None where it has none."""
        form = self.form(name)
        if form == "n":
            return None
        if form == "l":
            return self.down[name] @ self.up[name]
        return self.down[name][:, :1] if form == "v" else self.down[name][:1, :1]

    def bias(self) -> Tensor | None:
        """b as the operation adds it."""
        module = self.operation[0]
        bias = module.bias
        if bias is None or not isinstance(module, StatedLinear):
            return bias
        first, last = module.void
        return torch.cat([bias[:first], torch.zeros_like(bias[first:last]), bias[last:]])

    def dense(self) -> Tensor | None:
        """``W * A + B``."""
        a, b = self.factor("A"), self.factor("B")
        weight = self.operation[0].weight.flatten(1)
        change = None if a is None else weight.to(a.dtype) * a
        if b is None:
            return change
        return b.expand(weight.shape) if change is None else change + b

    def shifts(self) -> Tensor | None:
        """``W C + D * b + E``."""
        parts, c = [], self.factor("C")
        if c is not None:
            parts.append((self.operation[0].weight.flatten(1).to(c.dtype) @ c)[:, 0])
        for name in "DE":
            if (form := self.form(name)) != "n":
                value = self.shift[name] if form == "v" else self.shift[name][:1].expand(self.outputs)
                parts.append(value * self.bias().to(value.dtype) if name == "D" else value)
        return sum(parts) if parts else None

    def add_to(self, y: Tensor, x: Tensor, flow: Flow) -> Tensor:
        """``y`` with all five added."""
        change, shift = self.dense(), self.shifts()
        if change is not None:
            y = y + F.linear(x, change.to(x.dtype)).to(y.dtype)
        return y if shift is None else y + shift.to(y.dtype)

    @torch.no_grad()
    def affine(self) -> tuple[Tensor | None, Tensor | None]:
        """``W * A + B``, and the shift."""
        wide = Generalised.__new__(Generalised)
        nn.Module.__init__(wide)
        wide.operation, wide.outputs, wide.word = self.operation, self.outputs, self.word
        for name in ("down", "up", "shift"):
            parts = getattr(self, name).items()
            setattr(wide, name, nn.ParameterDict({key: value.detach().double() for key, value in parts}))
        return wide.dense(), wide.shifts()


def path_shapes(size: tuple[int, int], rank: int, word: str) -> Iterator[tuple[str, str, tuple[int, tuple[int, int]]]]:
    """Of each of the five that there is, its form, the rows of its lower tensor, and the shape of the upper one."""
    inputs, outputs = size
    for name, form in zip("ABCDE", word, strict=True):
        rows, columns = (outputs, inputs) if name in "AB" else (inputs, 1)
        if name in "DE":
            rows = outputs
        if form != "n":
            yield name, form, (1 if form == "c" else rows, (rank if form == "l" else 1, columns))


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class GLoRA(Method):
    """``W <- W + W * A + B``, ``b <- b + W C + D * b + E`` on the linears of the blocks, qkv as one. In every linear
    each of the five is of its own form: A and B a product of low rank, a vector (a number a row), a constant or none; C
    (in, 1) of low rank, a vector or none; D and E a vector, a constant or none.

    Without ``paths`` it is the supernet, all five in their largest form: 1.60 million numbers on ViT-B. The paper's
    supernet is trained with other forms in every linear and pass, on shared tensors: a vector is the first column of
    the low-rank factor, a constant its first number (``vpeft.SupernetHook``). ``vpeft noah`` then searches the forms
    (``configs/vtab/glora_supernet_vit.py``), and the subnet keeps the supernet's tensors: the released code trains
    nothing again. The search compares on val200. ``W * A + B`` is formed in every step, as in the released code.

    Args:
        rank: r.
        paths: A word of five letters for each linear, block by block (qkv, proj, fc1, fc2), or one for all: the forms
            of A to E, ``l`` low rank, ``v`` vector, ``c`` constant, ``n`` none. Without a bias a linear has no D.
    """

    rank: int = 4
    paths: tuple[str, ...] | None = None

    category = "unified"
    paper = "One-for-All: Generalized LoRA for Parameter-Efficient Fine-tuning, 2306.07967"
    space = {"rank": [2, 4, 8], "paths": [["lllvv"], ["lvnvv"], ["vnvnv"], ["nlncv"]]}
    mergeable = True

    def check(self, host: Host) -> None:
        self.need_width("rank", host)
        count = len(list(self.linears(host)))
        words = (WHOLE,) if self.paths is None else self.paths
        for word in words:
            if len(word) != 5 or any(
                letter not in allowed for letter, allowed in zip(word, FORMS.values(), strict=True)
            ):
                allowed = ", ".join(f"{name} {'|'.join(letters)}" for name, letters in FORMS.items())
                raise UserError(f"GLoRA: paths: {word!r} must be five letters: {allowed}.")
        if len(words) not in (1, count):
            raise UserError(
                f"GLoRA: paths has {len(words)} words; it must have one, or one for each of the {count} linears of "
                f"{host.registered_name()}."
            )
        if not self.count(host):
            raise UserError("GLoRA: paths: every form is none, so nothing would be trained.")

    @staticmethod
    def linears(host: Host) -> Iterator[tuple[Block, str]]:
        """Block and site of every linear, in order."""
        for block in host.blocks:
            yield from ((block, name) for name, _ in block.linears(*SITES))

    def words(self, host: Host) -> list[str]:
        """The word of every linear; without a bias D is none."""
        linears = list(self.linears(host))
        words = (WHOLE,) if self.paths is None else self.paths
        words = list(words) * len(linears) if len(words) == 1 else list(words)
        biased = [bias_size(block.sites[name].module) > 0 for block, name in linears]
        return [word if b else f"{word[:3]}n{word[4:]}" for word, b in zip(words, biased, strict=True)]

    def build(self, host: Host) -> None:
        for (block, name), word in zip(self.linears(host), self.words(host), strict=True):
            module = Generalised(block.sites[name], block.size(name), self.rank, word)
            block.place(name, "parallel", module, name)

    def subnet_space(self, host: Host, key: str, settings: Mapping[str, Any]) -> SubnetSpace:
        return PathSpace(host, key, self, settings)

    def count(self, host: Host) -> int:
        linears = zip(self.linears(host), self.words(host), strict=True)
        return sum(path_numbers(block.size(name), self.rank, word) for (block, name), word in linears)


def path_numbers(size: tuple[int, int], rank: int, word: str) -> int:
    """Numbers of one linear: A and B r (in + out) each, C r (in + 1), D and E out each, in the largest forms."""
    found = path_shapes(size, rank, word)
    return sum(first * second[0] + (second[0] * second[1] if form == "l" else 0) for _, form, (first, second) in found)


class PathSpace(SubnetSpace):
    """A word for every linear.

    Args:
        host: Where the supernet is placed.
        key: Its key.
        method: Itself.
        settings: ``limit``, and ``form_prob`` of a mutation (0.2 in the authors' code).
    """

    def __init__(self, host: Host, key: str, method: GLoRA, settings: Mapping[str, Any]) -> None:
        self.linears, self.rank = list(method.linears(host)), method.rank
        self.key, self.limit, self.form_prob = key, settings.get("limit"), settings.get("form_prob", 0.2)
        self.largest = tuple(method.words(host))
        if any(word[:3] != WHOLE[:3] or word[4] != WHOLE[4] for word in self.largest):
            raise UserError("GLoRA: the supernet has every form: leave paths out.")
        # D stays out where there is no bias.
        self.forms = [
            tuple("n" if letter == "n" else of for letter, of in zip(w, FORMS.values(), strict=True))
            for w in self.largest
        ]

    def count(self, subnet: tuple[str, ...]) -> int:
        return sum(
            path_numbers(b.size(name), self.rank, word) for (b, name), word in zip(self.linears, subnet, strict=True)
        )

    def fields(self, subnet: tuple[str, ...]) -> dict[str, Any]:
        return {"rank": self.rank, "paths": list(subnet)}

    def apply(self, subnet: tuple[str, ...]) -> None:
        for (block, name), word in zip(self.linears, subnet, strict=True):
            block.placed(self.key)[name].word = word

    def draw(self, rng: random.Random) -> tuple[str, ...]:
        return tuple("".join(map(rng.choice, forms)) for forms in self.forms)

    def mutate(self, subnet: tuple[str, ...], rng: random.Random) -> tuple[str, ...]:
        """Each form another one with ``form_prob``."""
        both = zip(subnet, self.draw(rng), strict=True)
        return tuple(
            "".join(new if rng.random() < self.form_prob else old for old, new in zip(*pair, strict=True))
            for pair in both
        )

    def cross(self, a: tuple[str, ...], b: tuple[str, ...], rng: random.Random) -> tuple[str, ...]:
        """Each form of one parent or the other."""
        return tuple("".join(map(rng.choice, zip(*pair, strict=True))) for pair in zip(a, b, strict=True))
