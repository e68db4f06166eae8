"""What a training step keeps, as the cost benchmark measures it."""

import sys
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[2]
#: The backbone of these tests: two blocks of width 192 with 3 heads, on 2 x (16 + 1) tokens.
WIDTH, HEADS, DEPTH, TOKENS = 192, 3, 2, 2 * 17


def small_vit(**given) -> nn.Module:
    """Its model, with norms that scale and shift."""
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=DEPTH, num_classes=7, **given)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
    return model


def batch() -> tuple[Tensor, Tensor]:
    """Its images and labels."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 64, 64, generator=generator), torch.tensor([1, 4])


def saved_bytes(model: nn.Module) -> int:
    """What a step of the model on these images keeps."""
    sys.path.insert(0, str(ROOT))
    try:
        from benchmarks.common import measuring

        images, labels = batch()
        return measuring.saved_bytes(measuring.Entry("", model, (images.to(next(model.parameters()).dtype), labels)))
    finally:
        sys.path.remove(str(ROOT))


def floor_bytes(model: nn.Module) -> int:
    """What the gradient of the activations alone keeps of the plain model, down to the input of the first block."""
    model = model.requires_grad_(False)
    model.blocks[0].register_forward_pre_hook(lambda module, args: (args[0].detach().requires_grad_(),))
    return saved_bytes(model)
