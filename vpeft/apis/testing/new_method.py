"""The file of a new method and its test: small ones that pass, to be changed line by line."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from string import Template

from vpeft.core.contract.method import CATEGORIES
from vpeft.errors import UserError
from vpeft.files import write_atomically
from vpeft.registry import PEFT_METHODS, nearest

METHOD = Template('''\
"""$name."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vpeft.algorithms import Method
from vpeft.core.backbones import Flow, Host
from vpeft.registry import PEFT_METHODS


class ${name}Module(nn.Module):
    """``y + s B A y`` of a branch's output ``y`` ``(B, N, C)``; B starts at zero."""

    def __init__(self, dim: int, bottleneck: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.down = nn.Parameter(torch.empty(bottleneck, dim))  # A
        self.up = nn.Parameter(torch.empty(dim, bottleneck))  # B
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The start, in place: it runs again after the base's weights were loaded."""
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        nn.init.zeros_(self.up)

    def forward(self, y: Tensor, flow: Flow) -> Tensor:
        return y + self.scale * (y @ self.down.t()) @ self.up.t()

    def affine(self) -> tuple[Tensor, None]:
        """``f(y) = M y + m`` as ``(M, m)``: the merge follows. Leave it out where f is not affine."""
        change = self.scale * self.up.double() @ self.down.double()
        return torch.eye(len(change), device=change.device, dtype=change.dtype) + change, None


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class $name(Method):
    """``x <- x + (1 + s B A) MLP(x)``. Write the paper's equation here, and where defaults are from.

    Args:
        bottleneck: Rows of A.
        scale: s.
    """

    bottleneck: int = 8
    scale: float = 1.0

    category = "$category"
    paper = "Title, venue or arXiv number, section and equation"
    memory = "M2"  # gradients pass the activations of all blocks
    mergeable = True  # no trace is left at inference
    identity_at_start = True  # or "rounding", or False: how the start agrees with the frozen host
    space = {"bottleneck": [4, 8, 16], "scale": [0.1, 1.0, 10.0]}  # what a search may try

    def check(self, host: Host) -> None:
        self.need_width("bottleneck", host)

    def build(self, host: Host) -> None:
        for block in host.blocks:
            block.place("mlp_branch", "after", ${name}Module(block.dim, self.bottleneck, self.scale), "mlp")

    def count(self, host: Host) -> int:
        return sum(2 * self.bottleneck * block.dim for block in host.blocks)
''')

TEST = Template('''\
"""The contract of $name, one test for each check on each backbone that is here."""

from $file import $name

from vpeft.testing import each_check


@each_check($name)
def test_contract(contract):
    contract()
''')


def write_method(name: str, folder: str | Path = ".", category: str = "adapter") -> list[Path]:
    """Write ``<name>.py`` and ``test_<name>.py``.

    Args:
        name: Of the method's class, which it is registered under.
        folder: Where to.
        category: One of the survey's.

    Returns:
        The files.

    Raises:
        UserError: The name is no class's or taken, there is no such category, or a file is there.
    """
    if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", name) or keyword.iskeyword(name):
        raise UserError(f"{name!r} is no name of a class: begin with a capital, letters and digits alone: MyMethod.")
    if name in PEFT_METHODS.module_dict:
        there = PEFT_METHODS.module_dict[name]
        raise UserError(f"there is a method {name} already ({there.__module__}): take another name.")
    if category not in CATEGORIES:
        raise UserError(f"there is no category {category!r}: {nearest(category, CATEGORIES)}")
    file = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    texts = {f"{file}.py": METHOD, f"test_{file}.py": TEST}
    paths = {
        Path(folder) / path: text.substitute(name=name, file=file, category=category) for path, text in texts.items()
    }
    if there := [path for path in paths if path.exists()]:
        raise UserError(f"{there[0]} is there already: move it away, or take another --out.")
    Path(folder).mkdir(parents=True, exist_ok=True)
    return [Path(write_atomically(path, text.encode())) for path, text in paths.items()]
