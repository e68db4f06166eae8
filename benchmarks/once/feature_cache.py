"""How much faster is an epoch whose frozen features are kept?

    OMP_NUM_THREADS=1 python benchmarks/once/feature_cache.py --images 64 --rounds 3

Every method trains a timm ViT on random images in memory (forward, backward, step; no reading of files), once plainly
and once with kept features, epoch by epoch in turns after one that fills the store and from the same weights. The ratio
is taken within a round, of the processor's time and, in brackets, of the clock's, which waits for the disk too; the
median and all rounds are printed, with the bytes that an image takes in the store, and the multiplications of the two
steps (matrix products and convolutions, forward and backward): no cache is faster by much more than their ratio, as
elementwise work, the optimiser and the reading of what is kept come on top.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from typing import Any

import vpeft  # isort: skip  mends torchvision

import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.adaptation.training.frozen.frozen_features import FrozenFeatures
from vpeft.core.store import Store

#: Bytes of the store.
LIMIT = 40 * 10**9
METHODS = {
    "Linear": {"type": "Linear"},
    "PartialK, k=1": {"type": "PartialK", "k": 1},
    "PartialK, k=1, skip_unread": {"type": "PartialK", "k": 1, "skip_unread": True},
    "LST": {"type": "LST"},
    "LAST": {"type": "LAST"},
    "E3VA": {"type": "E3VA"},
}


class Probe(nn.Module):
    """A network and a head of its own, as a classifier of mmpretrain has them."""

    def __init__(self, backbone: nn.Module, width: int) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(width, 100)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(images))


def epoch(
    model: nn.Module, optimiser: torch.optim.Optimizer, images: torch.Tensor, batch: int, number: int
) -> tuple[float, float]:
    """Seconds of an epoch: the processor's and the clock's."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(number))
    start, on_clock = time.process_time(), time.perf_counter()
    for part in order.split(batch):
        loss = F.cross_entropy(model(images[part]), part % 100)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return time.process_time() - start, time.perf_counter() - on_clock


def multiplications(model: nn.Module, images: torch.Tensor) -> float:
    """Of an image in a training step, forward and backward."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # its products are counted one by one
        model(images).sum().backward()
    model.zero_grad()
    return counter.get_total_flops() / 2 / len(images)


def made(name: str, settings: dict[str, object], **build: Any) -> tuple[Probe, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=0, **build)
    vpeft.attach(network, settings)
    model = Probe(network, network.num_features).train()
    return model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)


def compare_epochs(
    name: str, settings: dict[str, object], images: int, batch: int, rounds: int, **build: Any
) -> dict[str, Any]:
    """Plain epochs against kept ones.

    Args:
        name: A model of timm.
        settings: Of the method.
        images: Images of an epoch.
        batch: Images of a step.
        rounds: Pairs of epochs, after one that fills the store.
        **build: Further options of the model.

    Returns:
        ``ratios``, how many times faster, by round; ``clock_ratios``, the same by the clock; ``megabytes`` of an image
        in the store; ``same_bits`` of all trained weights; ``products``, billions of multiplications of an image in a
        plain and in a kept step.
    """
    model, optimiser = made(name, settings, **build)
    size = build.get("img_size") or model.backbone.default_cfg["input_size"][-1]
    drawn = torch.randn(images, 3, size, size)
    kept = copy.deepcopy(model)
    other = torch.optim.AdamW([p for p in kept.parameters() if p.requires_grad], lr=1e-3)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder, LIMIT)
        features = FrozenFeatures(get_adaptation(kept.backbone), store, print)
        features.start()
        epoch(kept, other, drawn, batch, 0)
        model.load_state_dict(kept.state_dict())
        optimiser.load_state_dict(copy.deepcopy(other.state_dict()))
        ratios, clock_ratios = [], []
        for number in range(1, 1 + rounds):
            plain = epoch(model, optimiser, drawn, batch, number)
            own = epoch(kept, other, drawn, batch, number)
            ratios.append(plain[0] / own[0])
            clock_ratios.append(plain[1] / own[1])
        megabytes = len(next(iter(store.get(store.keys(1))))) / 1e6
        pairs = zip(model.parameters(), kept.parameters(), strict=True)
        same_bits = all(torch.equal(a, b) for a, b in pairs)
        products = [multiplications(one, drawn[:batch]) / 1e9 for one in (model, kept)]
        features.stop()
        store.close()
    return {
        "ratios": ratios,
        "clock_ratios": clock_ratios,
        "megabytes": megabytes,
        "same_bits": same_bits,
        "products": products,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    args = parser.parse_args()
    print(f"{args.model}, {args.images} images, batches of {args.batch}, {torch.get_num_threads()} threads")
    for name in args.methods:
        found = compare_epochs(args.model, METHODS[name], args.images, args.batch, args.rounds)
        bits = "the same bits" if found["same_bits"] else "OTHER BITS"
        rounds = ", ".join(
            f"{ratio:.1f} ({clock:.1f})" for ratio, clock in zip(found["ratios"], found["clock_ratios"], strict=True)
        )
        median = statistics.median(found["ratios"])
        plain, kept = found["products"]
        print(
            f"{name}: {median:.1f} times faster; by round {rounds}; {plain:.3f} and {kept:.5f} billion products an "
            f"image, {plain / kept:.2f} times fewer; {found['megabytes']:.3f} MB an image; {bits}"
        )


if __name__ == "__main__":
    main()
