"""Which axis of a map holds the channels, where all its extents are as wide as the stream."""

import pytest
import torch
from support.hosts import build
from torch import nn

from vpeft.core.adaptation.attach import attach
from vpeft.extension.attention.gradcam import gradcam
from vpeft.extension.attention.maps import default_kinds


class Scores(nn.Module):
    """The mean of a backbone's map as class scores."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, inputs, mode="tensor"):
        out = self.backbone(inputs)
        return (out if isinstance(out, torch.Tensor) else out[0]).flatten(2).mean(2)


@pytest.mark.parametrize("host", ["transformers.VitDetModel", "timm.HieraDet"])
def test_channels_are_found_where_height_width_and_channels_are_equal(host):
    """The first holds channels first, the second last."""
    from transformers import VitDetConfig, VitDetModel

    torch.manual_seed(0)
    if host == "timm.HieraDet":
        from timm.models.hieradet_sam2 import HieraDet

        net = {"embed_dim": 16, "stages": (1, 1), "global_att_blocks": (), "window_spec": (8, 4), "q_pool": 1}
        backbone = HieraDet(num_heads=1, num_classes=8, **net)
        model = backbone
        model_forward = backbone.forward
        backbone.forward = lambda x, mode="tensor": model_forward(x)
    else:
        config = VitDetConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=1,
            image_size=64,
            pretrain_image_size=64,
            patch_size=4,
        )
        model = Scores(VitDetModel(config))
    model, images = model.eval(), torch.randn(1, 3, 64, 64)
    cam = gradcam(model, images, target=3, block=0)
    kept = []
    first = model.blocks[0] if host == "timm.HieraDet" else model.backbone.encoder.layer[0]
    hook = first.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
    (gradient,) = torch.autograd.grad(model(images.requires_grad_())[:, 3].sum(), kept[0])
    hook.remove()
    assert kept[0].shape == (1, 16, 16, 16)
    axis = -1 if host == "timm.HieraDet" else 1
    x, g = (t.detach().movedim(axis, -1).flatten(1, 2) for t in (kept[0], gradient))
    expected = (g.mean(1, keepdim=True) * x).sum(-1).relu().view(1, 16, 16)
    torch.testing.assert_close(cam, expected)


@pytest.mark.parametrize(
    ("host", "kinds"),
    [
        ("transformers.HieraModel", ["received", "gradcam"]),
        ("timm.Hiera", ["received", "gradcam"]),
        ("timm.VisionTransformer", ["class", "rollout"]),
        ("transformers.SwinModel", ["received", "gradcam"]),
    ],
)
def test_rollout_is_offered_where_all_blocks_look_at_the_same_tokens(host, kinds):
    model = build(host)
    assert default_kinds(model) == kinds
    attach(model, [])
    assert default_kinds(model) == kinds
