"""ViT-Adapter: its four maps, what it starts as, and on which backbones it stands."""

import copy

import pytest
import torch
from support.hosts import build, perturb
from support.plain_vit import SIZE, images
from support.plain_vit_adapter import SMALL, PlainViTAdapter

import vpeft
from vpeft.algorithms.modules.deformable import DeformableAttention
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.contract.build import build_method
from vpeft.core.models.maps import Backbone

PYRAMID = {"type": "ViT-Adapter", "pyramid": True, **SMALL}


def statistics(model):
    """Batch norms with means and variances of their own."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


def adapted(**options):
    model = build("mmpretrain.VisionTransformer", img_size=SIZE, out_type="featmap")
    torch.manual_seed(0)
    vpeft.attach(model, {**PYRAMID, **options})
    return statistics(perturb(model))


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("inject", [True, False])
def test_its_four_maps(inject):
    """They are the re-statement's, in copies too; switched off, the backbone gives its own map."""
    model = adapted(inject=inject)
    maps = model(images())
    assert [tuple(one.shape[1:]) for one in maps] == [(64, 8, 6), (64, 4, 3), (64, 2, 2), (64, 1, 1)]
    expected = PlainViTAdapter(model.state_dict(), points=2, inject=inject).pyramid(images())
    for got, one, copied in zip(maps, expected, copy.deepcopy(model)(images()), strict=True):
        close(got, one)
        close(copied, one)
    with get_adaptation(model).disabled():
        assert [tuple(one.shape) for one in model(images())] == [(2, 64, 4, 3)]
    vpeft.detach(model)
    assert [tuple(one.shape) for one in model(images())] == [(2, 64, 4, 3)]


def test_four_maps_of_a_library_network():
    """``vpeft.Backbone`` gives them in the place of its one."""
    torch.manual_seed(0)
    backbone = Backbone("timm/test_vit", weights=False, img_size=64)
    vpeft.attach(backbone, {**PYRAMID, "heads": 4})
    maps = backbone.eval()(torch.randn(1, 3, 64, 64))
    assert [tuple(one.shape[2:]) for one in maps] == [(16, 16), (8, 8), (4, 4), (2, 2)]


def test_four_maps_are_those_of_one_adapter():
    """A batch of two adapters with one map has each sample's own; four maps are refused there."""
    for pyramid in (False, True):
        model = build("mmpretrain.VisionTransformer", img_size=SIZE, out_type="featmap")
        for name in "ab":
            vpeft.attach(model, {**PYRAMID, "pyramid": pyramid}, name=name)
        vpeft.use(model, ["a", "b"])
        if pyramid:
            with pytest.raises(vpeft.UserError, match="are those of one adapter"):
                model(images())
        else:
            (mixed,) = model(images())
            close(mixed[1:], vpeft.use(model, "b")(images()[1:])[0])


def test_without_injectors_the_backbone_has_no_graph():
    """All that is trained gets a gradient all the same."""
    model = adapted(inject=False)
    seen = []
    for layer in model.layers:
        layer.register_forward_hook(lambda m, args, out: seen.append(out.requires_grad))
    sum((one * torch.randn_like(one)).sum() for one in model.train()(images(4))).backward()
    assert seen == [False] * 3
    assert not [name for name, p in model.named_parameters() if p.requires_grad and not p.grad.any()]


def test_starts():
    """The stream is the frozen one's; every head looks one, two, ... places into a direction of its own."""
    model = adapted(pyramid=False)
    network = get_adaptation(model).host.backbone.peft["vit_adapter"]["network"]
    network.reset_parameters()
    assert all(not one.gamma.any() for one in network.injectors)
    attention = DeformableAttention(8, 8, heads=4, levels=2, points=3)
    attention.reset_parameters()
    ahead = attention.offsets.bias.view(4, 2, 3, 2)
    close(ahead[1, 0, :, 1], torch.tensor([1.0, 2.0, 3.0]))
    close(ahead[2, 1, :, 0], torch.tensor([-1.0, -2.0, -3.0]))
    assert not attention.weights.weight.any()
    assert not attention.weights.bias.any()
    assert not attention.offsets.weight.any()


def test_what_it_is_refused_on():
    with pytest.raises(vpeft.UserError, match="pyramid=True gives four maps"):
        vpeft.attach(build("timm.VisionTransformer"), PYRAMID)
    with pytest.raises(vpeft.UserError, match="without injectors no level reaches another's map"):
        vpeft.attach(build("timm.VisionTransformer"), {"type": "ViT-Adapter", "inject": False})
    with pytest.raises(vpeft.UserError, match="one width"):
        vpeft.attach(build("timm.SwinTransformer"), "ViT-Adapter")
    with pytest.raises(vpeft.UserError, match="a multiple of the 3 heads"):
        vpeft.attach(build("timm.VisionTransformer"), {"type": "ViT-Adapter", "heads": 3})


@pytest.mark.parametrize(
    ("width", "depth", "heads", "ratio", "count"),
    [(384, 12, 6, 1.0, 5_830_160), (768, 12, 12, 0.5, 13_680_608)],
)
def test_counts_of_the_authors_sizes(width, depth, heads, ratio, count):
    """ViT-S and ViT-B with the settings of the authors' configs."""
    options = {"embed_dims": width, "num_layers": depth, "num_heads": heads, "feedforward_channels": 4 * width}
    from mmpretrain.models import VisionTransformer

    with torch.device("meta"):
        model = VisionTransformer(arch=options, img_size=224, patch_size=16, out_type="featmap")
        vpeft.attach(model, build_method({"type": "ViT-Adapter", "pyramid": True, "ratio": ratio}))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count
