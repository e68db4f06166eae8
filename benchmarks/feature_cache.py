"""How much faster is an epoch whose frozen features are kept?

    OMP_NUM_THREADS=1 python benchmarks/feature_cache.py --images 64 --rounds 3

Every method trains a timm ViT on random images in memory (forward, backward, step; no reading of files), once plainly
and once with kept features, epoch by epoch in turns after two epochs that fill the store. The ratio is taken within a
round; the median and all rounds are printed, with the bytes that an image takes in the store.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time

import vpeft  # isort: skip  mends torchvision

import timm
import torch
import torch.nn.functional as F
from torch import nn

from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.adaptation.training.frozen_features import FrozenFeatures
from vpeft.core.store import Store

METHODS = {
    "Linear": {"type": "Linear"},
    "PartialK, k=1": {"type": "PartialK", "k": 1},
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


def epoch(model: nn.Module, optimiser: torch.optim.Optimizer, images: torch.Tensor, batch: int, number: int) -> float:
    """Seconds of CPU of an epoch."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(number))
    start = time.process_time()
    for part in order.split(batch):
        loss = F.cross_entropy(model(images[part]), part % 100)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return time.process_time() - start


def made(name: str, settings: dict[str, object]) -> tuple[Probe, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=0)
    vpeft.attach(network, settings)
    model = Probe(network, network.num_features).train()
    return model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)


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
        model, optimiser = made(args.model, METHODS[name])
        size = model.backbone.default_cfg["input_size"]
        images = torch.randn(args.images, *size)
        kept = copy.deepcopy(model)
        other = torch.optim.AdamW([p for p in kept.parameters() if p.requires_grad], lr=1e-3)
        with tempfile.TemporaryDirectory() as folder:
            store = Store(folder, 20 * 10**9)
            features = FrozenFeatures(get_adaptation(kept.backbone), store, print)
            features.start()
            for number in range(2):
                epoch(kept, other, images, args.batch, number)
                epoch(model, optimiser, images, args.batch, number)
            ratios = []
            for number in range(2, 2 + args.rounds):
                plain = epoch(model, optimiser, images, args.batch, number)
                ratios.append(plain / epoch(kept, other, images, args.batch, number))
            size = len(next(iter(store.get(store.keys(1))))) / 1e6
            features.stop()
            store.close()
        pairs = zip(model.parameters(), kept.parameters(), strict=True)
        bits = "the same bits" if all(torch.equal(a, b) for a, b in pairs) else "OTHER BITS"
        rounds = ", ".join(f"{ratio:.1f}" for ratio in ratios)
        print(f"{name}: {statistics.median(ratios):.1f} times faster ({rounds}); {size:.3f} MB an image; {bits}")


if __name__ == "__main__":
    main()
