"""SCT: salient channel tuning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.host import Host
from vpeft.core.backbones.recording import record_streams
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.backbones.sites.passes import in_program
from vpeft.core.contract.method import STARTS, Method
from vpeft.core.contract.training import TrainingData
from vpeft.registry import PEFT_METHODS

FORMS = ("add", "scale")


class Salient(nn.Module):
    """``x[S] <- x[S] + s (A x[S] + b)`` (form ``add``) or ``s x[S] + A x[S] + b`` (form ``scale``) on k channels S.

    Args:
        dim: Channels that S is taken from.
        channels: k.
        offsets: First of those channels for every part: one part of a stream, or q and v of a fused qkv.
        width: All channels of the tensor.
        scale: s.
        form: ``add`` or ``scale``.
        init: ``official`` or ``identity``.
    """

    def __init__(
        self, dim: int, channels: int, offsets: dict[str, int], width: int, scale: float, form: str, init: str
    ) -> None:
        super().__init__()
        self.init = init
        self.dim, self.offsets, self.width = dim, offsets, width
        self.identity, self.scale = (1.0, scale) if form == "add" else (scale, 1.0)
        self.mix = nn.ModuleDict({part: nn.Linear(channels, channels) for part in offsets})
        for part in offsets:
            self.register_buffer(f"index_{part}", torch.arange(channels))
        self.register_buffer("learned", torch.tensor(False))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A truncated normal of std 0.02 (zero with ``identity``), b zero."""
        for linear in self.mix.values():
            if self.init == "identity":
                nn.init.zeros_(linear.weight)
            else:
                nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def index(self, part: str) -> Tensor:
        """Positions of S in the tensor."""
        return getattr(self, f"index_{part}") + self.offsets[part]

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        for part, linear in self.mix.items():
            index = self.index(part)
            chosen = x.index_select(-1, index)
            change = self.scale * linear(chosen) + (self.identity - 1.0) * chosen
            if in_program():  # not every exporter has index_add
                x = x + change.to(x.dtype) @ F.one_hot(index, x.shape[-1]).to(x.dtype)
            else:
                x = x.index_add(-1, index, change.to(x.dtype))
        return x

    def selected(self) -> dict[str, Tensor]:
        """Which channels of every part are S, ``(dim,)``."""
        return {p: torch.zeros(self.dim).index_fill(0, getattr(self, f"index_{p}").cpu(), 1).bool() for p in self.mix}

    def affine(self) -> tuple[Tensor, Tensor]:
        """The identity but for the rows and columns S."""
        weight = next(iter(self.mix.values())).weight
        matrix = torch.eye(self.width, dtype=torch.float64, device=weight.device)
        shift = matrix.new_zeros(self.width)
        for part, linear in self.mix.items():
            index = self.index(part)
            matrix[index[:, None], index] = self.scale * linear.weight.detach().double()
            matrix[index, index] += self.identity
            shift[index] = self.scale * linear.bias.detach().double()
        return matrix, shift


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class SCT(Method):
    """``x[S] <- x[S] + s (A x[S] + b)`` on k salient channels S of the stream behind attention's residual, A (k, k),
    one module per block. For S the frozen model sees the training set once: n_{c,j} is the L2 norm of channel j over
    all patch tokens of all images of class c; S are the k channels with the largest mean of n over the classes.

    On Swin-B the authors' file has it in the blocks 13 to 23 alone (102,432 numbers); here it is in every block.

    Args:
        channels: k; None means 96, an eighth of ViT-B's width, or half the narrowest width where that is less.
        scale: s.
        form: ``add`` as above; ``scale`` is ``x[S] <- s x[S] + (A x[S] + b)``, which some tasks of the authors use.
        variant: ``attn`` as above, S from the same place; ``mlp`` on the MLP's output before the residual, S from the
            block's output; ``qkv`` on q and v, with an A and S for each, S from the output of qkv. The last two merge.
        init: ``official`` draws A, so it does not start as the frozen host; ``identity`` starts A at zero (which with
            the form ``scale`` is the frozen host for s = 1 only).
    """

    channels: int | None = None
    scale: float = 1.0
    form: str = "add"
    variant: str = "attn"
    init: str = "official"

    category = "adapter"
    paper = "SCT: A Simple Baseline for Parameter-Efficient Fine-Tuning via Salient Channels, IJCV 2023"
    space = {"scale": [0.1, 0.5, 1.0, 5.0], "form": ["add", "scale"], "variant": ["attn", "mlp"]}
    merges_with = "variant mlp or qkv"
    identity_at_start = False

    #: Variant to site and placement of the module, and the site whose output is looked at.
    PLACES: ClassVar[dict[str, tuple[str, str]]] = {
        "attn": ("attn_residual", "attn_residual"),
        "mlp": ("mlp_branch", "mlp_residual"),
        "qkv": ("qkv", "qkv"),
    }

    def __post_init__(self) -> None:
        self.mergeable = self.variant != "attn"

    def check(self, host: Host) -> None:
        self.need_choice("variant", self.PLACES)
        self.need_choice("form", FORMS)
        self.need_choice("init", STARTS)
        if self.variant == "qkv":
            self.need_square(host)
        if self.channels is not None:
            self.need_width("channels", host)

    def size(self, host: Host) -> int:
        """k on this host."""
        return self.channels or min(96, min(block.dim for block in host.blocks) // 2)

    def build(self, host: Host) -> None:
        for block in host.blocks:
            fused = self.variant == "qkv"
            offsets = {"q": 0, "v": 2 * block.dim} if fused else {"x": 0}
            width = 3 * block.dim if fused else block.dim
            module = Salient(block.dim, self.size(host), offsets, width, self.scale, self.form, self.init)
            block.place(self.PLACES[self.variant][0], "after", module, "salient")

    def learn(self, host: Host, data: TrainingData) -> None:
        seen: dict[int, Tensor] = {}
        sums: dict[int, Tensor] = {}

        def look(index: int) -> Callable[[Tensor, Flow], None]:
            def keep(x: Tensor, flow: Flow) -> None:
                seen[index] = x[:, host.prefix :].double().square().sum(1)  # by image, or by window

            return keep

        looks = [(block.sites[self.PLACES[self.variant][1]], look(block.index)) for block in host.blocks]
        with torch.no_grad(), record_streams(host, looks):
            for images, labels in data:
                data.features(images)
                for index, energy in seen.items():
                    energy = energy.unflatten(0, (len(labels), -1)).sum(1)
                    old = sums.get(index, energy[:0])
                    old = F.pad(old, (0, 0, 0, max(0, int(labels.max()) + 1 - len(old))))
                    sums[index] = old.index_add(0, labels.to(old.device), energy)
        for block in host.blocks:
            norms = sums[block.index].sqrt()
            score = norms[norms.sum(1) > 0].mean(0)
            module = block.placed(host.method_key)["salient"]
            for part, offset in module.offsets.items():
                top = score[offset : offset + module.dim].topk(self.size(host)).indices
                getattr(module, f"index_{part}").copy_(top.sort().values)
            module.learned.fill_(True)

    def count(self, host: Host) -> int:
        k, parts = self.size(host), 2 if self.variant == "qkv" else 1
        return parts * len(host.blocks) * (k * k + k)
