"""GPS: gradient-based parameter selection."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vpeft.core.backbones.block import Block, HostParam
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.recording import record_streams
from vpeft.core.backbones.sites.convolution import Convolution
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.backbones.sites.passes import in_program
from vpeft.core.backbones.sites.site import Site, channels_last
from vpeft.core.backbones.sites.stated_linear import bias_size, in_order, weight_parts
from vpeft.core.contract.method import Method
from vpeft.core.contract.training import TrainingData
from vpeft.registry import PEFT_METHODS

SELECTIONS = ("contrastive", "cross_entropy")


def _added(y: Tensor, x: Tensor, delta: Tensor, index: Tensor) -> Tensor:
    """``y`` with ``delta[j, k] x[index[j, k]]`` added to its row j, for all k."""
    for column, change in zip(index.unbind(1), delta.unbind(1), strict=True):
        y = torch.addcmul(y, x.index_select(-1, column).to(y.dtype), change.to(y.dtype))
    return y


class _Entries(torch.autograd.Function):
    """:func:`_added`, which keeps ``x`` and nothing that is gathered."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, delta: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(x, delta, index)
        return _added(y, x, delta, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, delta, index = ctx.saved_tensors
        to_x, to_delta = torch.zeros_like(x) if ctx.needs_input_grad[1] else None, []
        for column, change in zip(index.unbind(1), delta.unbind(1), strict=True):
            read = x.index_select(-1, column).to(grad.dtype)
            to_delta.append((grad * read).flatten(0, -2).sum(0).to(delta.dtype))
            if to_x is not None:
                to_x.index_add_(-1, column, (grad * change.to(grad.dtype)).to(x.dtype))
        return grad, to_x, torch.stack(to_delta, 1), None


class SparseRows(nn.Module):
    """``scatter(delta) x``: K trained entries in every row of a linear or a convolution.

    Attributes:
        delta: ``(rows, K)``, the change of the chosen entries; all the optimiser keeps state for.
        index: ``(rows, K)``, their columns in the flattened row.
    """

    weight_decay = False

    def __init__(self, module: nn.Module, entries: int, pointwise: bool = False) -> None:
        super().__init__()
        rows, columns = module.weight.flatten(1).shape
        self.shape = module.weight.shape
        convolves = isinstance(module, nn.modules.conv._ConvNd) and not pointwise
        self.convolution = Convolution(module) if convolves else None
        self.delta = nn.Parameter(torch.empty(rows, entries))
        first = torch.arange(rows)[:, None] + torch.arange(entries)
        self.register_buffer("index", first % columns)
        self.register_buffer("learned", torch.tensor(False))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """No change."""
        nn.init.zeros_(self.delta)

    def dense(self) -> Tensor:
        """The change as a matrix ``(rows, columns)``."""
        return self.delta.new_zeros(self.shape).flatten(1).scatter(1, self.index, self.delta)

    def selected(self) -> dict[str, Tensor]:
        """Which entries of the weight are trained, ``(rows, columns)``."""
        return {"weight": torch.zeros(self.shape).flatten(1).scatter(1, self.index.cpu(), 1.0).bool()}

    def add_to(self, y: Tensor, x: Tensor, flow: Flow) -> Tensor:
        """``y`` (..., rows) with the change added; a product per entry instead of a dense one."""
        if self.convolution is not None:
            return y + channels_last(self.convolution(x, self.dense().view(self.shape)))
        if in_program():
            return _added(y, x, self.delta, self.index)
        return _Entries.apply(y, x, self.delta, self.index)

    def affine(self) -> tuple[Tensor, None]:
        """The dense change, no shift."""
        return self.dense(), None


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class GPS(Method):
    """In every row (output neuron) of every linear and of the patch embedding, the K entries with the largest
    ``|accumulated gradient|`` of a selection loss over one pass are trained, with all biases of those layers and of
    depthwise convolutions.

    ``W = W0 + scatter(delta)``, delta (rows, K): the same function and the same steps as masking the gradient of W,
    with optimiser state for delta only. Weight decay must not reach delta: the authors' masked form would decay the
    entries that are not chosen; here it is left out as they do. Their selection by name also trains LayerScales; here
    by type.

    Args:
        entries: K.
        selection: ``contrastive`` is the supervised contrastive loss of two augmented views of pooled features (their
            colours are changed where a preprocessor says how images were normalised); ``cross_entropy`` that of the
            head as it stands.
        temperature: Of the contrastive loss.
    """

    entries: int = 1
    selection: str = "contrastive"
    temperature: float = 0.07

    category = "specification"
    paper = "Gradient-based Parameter Selection for Efficient Fine-Tuning, CVPR 2024"
    space = {"entries": [1, 2, 5]}
    mergeable = True
    needs_blocks = False

    def check(self, host: Host) -> None:
        self.need_choice("selection", SELECTIONS)
        smallest = min(site.module.weight[0].numel() for _, site, _ in self.layers(host))
        self.need_width("entries", host, [smallest])

    def trains(self, param: HostParam) -> bool:
        return param.role == "bias"

    @staticmethod
    def layers(host: Host) -> Iterator[tuple[str, Site, Block | None]]:
        """Name, site and block (or None) of every linear and convolution."""
        for name, module in host.modules.items():
            if module.weight.dim() > 1:
                yield name.replace(".", "_"), host.sites[name], None
        for block in host.blocks:
            for name, _ in block.linears("qkv", "value", "mix", "proj", "skip", "fc1", "fc2"):
                yield name, block.sites[name], block

    def build(self, host: Host) -> None:
        for name, site, block in self.layers(host):
            host.place(site.name, "parallel", SparseRows(site.module, self.entries, site.pointwise), name, block)

    def learn(self, host: Host, data: TrainingData) -> None:
        if self.selection == "contrastive" and data.colours is None:
            print_log("GPS: how images were normalised is not known: its views keep their colours.", logger="current")
        layers = list(self.layers(host))
        parts = [weight_parts(site.module) for _, site, _ in layers]
        weights = [weight for own in parts for weight in own]
        total = [torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32)) for weight in weights]
        mode = host.backbone.training
        try:
            for weight in weights:
                weight.requires_grad_(True)
            host.backbone.train()
            with torch.random.fork_rng(), record_streams(host, ()):
                torch.manual_seed(0)
                for loss in self.selection_losses(data):
                    for sum_, grad in zip(total, torch.autograd.grad(loss, weights), strict=True):
                        sum_.add_(grad)
        finally:
            host.backbone.train(mode)
            for weight in weights:
                weight.requires_grad_(False)
        sums = iter(total)
        for own, (_, site, _) in zip(parts, layers, strict=True):
            gradient = in_order(site.module, torch.cat([next(sums) for _ in own]))
            module = next(e.module for e in site.entries if e.key == host.method_key)
            module.index.copy_(gradient.flatten(1).abs().topk(self.entries, dim=1).indices.sort(dim=1).values)
            module.learned.fill_(True)

    def selection_losses(self, data: TrainingData) -> Iterator[Tensor]:
        """The selection loss of each batch."""
        for images, labels in data:
            if self.selection == "contrastive":
                features = [F.normalize(data.features(view), dim=1) for view in two_views(images, data.colours)]
                yield supervised_contrastive_loss(torch.stack(features, 1), labels, self.temperature)
            else:
                yield F.cross_entropy(data.logits(images), labels)

    def count(self, host: Host) -> int:
        modules = [site.module for _, site, _ in self.layers(host)]
        biases = sum(bias_size(m) for m in modules)
        biases += sum(bias_size(m) for b in host.blocks for _, m in b.linears("dwconv"))
        return self.entries * sum(m.weight.shape[0] for m in modules) + biases + host.loose("bias")


def supervised_contrastive_loss(features: Tensor, labels: Tensor, temperature: float = 0.07) -> Tensor:
    """``- mean_i mean_{p in P(i)} log(exp(z_i z_p / t) / sum_{a != i} exp(z_i z_a / t))``.

    Supervised Contrastive Learning, NeurIPS 2020, Eq. 2 (L_out). P(i) are the other views of the same class.

    Args:
        features: ``(B, views, D)``, of unit length.
        labels: ``(B,)``.
        temperature: t.
    """
    batch, views, _ = features.shape
    z = features.transpose(0, 1).flatten(0, 1)
    labels = labels.to(z.device).repeat(views)
    scores = z @ z.t() / temperature
    others = ~torch.eye(batch * views, dtype=torch.bool, device=z.device)
    positive = (labels[:, None] == labels) & others
    log_prob = scores - scores.masked_fill(~others, float("-inf")).logsumexp(1, keepdim=True)
    return -((log_prob * positive).sum(1) / positive.sum(1).clamp(min=1)).mean()


def two_views(images: Tensor, colours: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """Two random views of every image, as the authors draw them (from torch's generator).

    A crop of 0.08 to all of its area and of a ratio from 3/4 to 4/3, scaled back; a flip in half of the cases; a jitter
    of brightness, contrast and saturation by 0.4 and of hue by 0.1 in four of five; grey in one of five.

    Args:
        images: ``(B, 3, H, W)``, or clips ``(B, ..., 3, T, H, W)``; all frames of a clip are changed alike.
        colours: Mean and standard deviation that they were normalised by, of values up to 255, for three channels; None
            leaves colours as they are.
    """
    from torchvision import transforms

    draws = [transforms.RandomResizedCrop(images.shape[-2:], (0.08, 1.0)), transforms.RandomHorizontalFlip()]
    if colours is not None:
        mean, std = (value.to(images).view(3, 1, 1) / 255 for value in colours)
        draws.append(transforms.Lambda(lambda x: x * std + mean))
        draws.append(transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8))
        draws.append(transforms.RandomGrayscale(p=0.2))
        draws.append(transforms.Lambda(lambda x: (x - mean) / std))
    draw = transforms.Compose(draws)

    def view(image: Tensor) -> Tensor:
        frames = image if image.dim() == 3 else image.transpose(-4, -3)  # channels ahead of height and width
        changed = draw(frames.reshape(-1, *frames.shape[-3:])).view(frames.shape)
        return changed if image.dim() == 3 else changed.transpose(-4, -3)

    return tuple(torch.stack([view(image) for image in images]) for _ in range(2))
