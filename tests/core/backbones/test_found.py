"""A backbone of an unknown class is found by its blocks, or refused where what it is cannot be worked out."""

import copy
import functools

import pytest
import timm
import torch
from mmcv.cnn.bricks.transformer import BaseTransformerLayer
from mmseg.models.backbones import TIMMBackbone
from support.hosts import loss, perturb, tokens, trained
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import vpeft
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.backbones.find import find_host, hosts_in
from vpeft.core.backbones.probing import attempt

SWIN = {"img_size": 64, "window_size": 4, "depths": (1, 2), "embed_dim": 16, "num_heads": (1, 2), "out_indices": (0, 1)}


class Mine(nn.Module):
    """A user's own: blocks of timm behind two tokens of their own."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 64, 8, 8)
        self.own = nn.Parameter(torch.randn(1, 2, 64))
        self.blocks = nn.ModuleList([Block(64, 4, qkv_bias=True) for _ in range(3)])
        self.norm = nn.LayerNorm(64)
        self.fc = nn.Linear(64, 5)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.own.expand(len(x), -1, -1), x), 1)
        for block in self.blocks:
            x = block(x)
        return self.fc(self.norm(x))


class Halved(Mine):
    """Its second and third block see fewer tokens than the map has."""

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)[:, ::2]
        return x


class Backwards(Mine):
    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        for block in reversed(self.blocks):
            x = block(x)
        return x


class Beside(Mine):
    """Blocks of another encoder lie in the same module."""

    def __init__(self):
        super().__init__()
        self.words = nn.ModuleList([Block(64, 4)])


class TwoTowers(nn.Module):
    def __init__(self):
        super().__init__()
        self.text = nn.Sequential(nn.Embedding(9, 64), Block(64, 4))
        self.visual = Mine()


def swin():
    return timm.create_model("swin_tiny_patch4_window7_224", features_only=True, pretrained=False, **SWIN)


def in_mmseg():
    return TIMMBackbone("swin_tiny_patch4_window7_224", features_only=True, pretrained=False, **SWIN)


class Distilled(VisionTransformerDistilled):
    """With two prefix tokens and two heads, and of a class that no host names."""


def distilled():
    return Distilled(img_size=32, patch_size=8, embed_dim=64, depth=3, num_heads=4, num_classes=5)


CASES = {
    "custom": (Mine, 32, (4, 4), 2, ["fc"], "timm.Block"),
    "distilled": (distilled, 32, (4, 4), 2, ["head", "head_dist"], "timm.Block"),
    "features": (swin, 64, (8, 8), 0, [], "timm.SwinTransformerBlock"),
    "mmseg": (in_mmseg, 64, (8, 8), 0, [], "timm.SwinTransformerBlock"),
}


def made(build, dtype=torch.float64):
    torch.manual_seed(0)
    model = build().to(dtype).eval()
    with torch.no_grad():
        for param in model.parameters():
            param.add_(torch.randn_like(param) * 0.05)
    return model


def images(size, dtype=torch.float64):
    return torch.randn(2, 3, size, size, dtype=dtype, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("name", CASES)
def test_what_is_found(name):
    build, size, grid, prefix, heads, kind = CASES[name]
    plain = made(build, torch.float32)
    sited = vpeft.attach(copy.deepcopy(plain), "LNTune")  # nothing is placed
    host = get_adaptation(sited).host
    for mode in (True, False):
        assert torch.equal(tokens(plain.train(mode), images(size, torch.float32)),
                           tokens(sited.train(mode), images(size, torch.float32)))  # fmt: skip
    assert (host.flow.grid, host.flow.own_prefix, host.heads()) == (grid, prefix, heads)
    assert host.description()["name"] == f"backbone of {kind}"
    assert [b.stage for b in host.blocks] == ([0, 0, 0] if prefix else [0, 1, 1])
    assert "prefix" not in host.description()


@pytest.mark.parametrize(
    "method", ["LoRA", {"type": "AdaptFormer", "bottleneck": 8}, "BitFit", "VPTDeep", "SSF", "Mona"]
)
@pytest.mark.parametrize("name", CASES)
def test_methods_act(name, method, tmp_path):
    build, size, *_ = CASES[name]
    plain = made(build)
    model = perturb(vpeft.attach(copy.deepcopy(plain), method))
    out = tokens(model, images(size))
    loss(out).backward()
    dead = [k for k, p in trained(model).items() if not p.grad.any()]
    last = "blocks.2.peft.mona"  # of the distilled, whose heads read two tokens that no convolution sees
    assert not [key for key in dead if name != "distilled" or not key.startswith(last)]
    vpeft.save_adapter(model, tmp_path / "a.safetensors")
    other = vpeft.load_adapter(copy.deepcopy(plain), tmp_path / "a.safetensors")
    assert torch.equal(tokens(other, images(size)), out)
    if method in ("LoRA", "SSF"):
        vpeft.merge(model)
        torch.testing.assert_close(tokens(model, images(size)), out)
    vpeft.detach(other)
    assert torch.equal(tokens(other, images(size)), tokens(plain, images(size)))


def test_what_needs_an_output_norm_says_so():
    for method in ("LST", "HST", "E3VA"):
        with pytest.raises(vpeft.UserError, match=r"backbone of timm\.Block has no output norm"):
            vpeft.attach(Mine(), method)


def test_two_encoders_are_not_mixed():
    with pytest.raises(vpeft.UserError, match=r"blocks in visual and outside of it \(text\.1\).*model\.visual"):
        vpeft.attach(TwoTowers(), "LoRA")
    model = TwoTowers()
    vpeft.attach(model.visual, "LoRA")
    assert find_host(model.visual).blocks[0].module is model.visual.blocks[0]


UNFIT = [
    (Beside, "blocks 3 to 3 have not run"),
    (Halved, r"block 1 gets \d+ tokens"),
    (Backwards, "block 2 runs after no other"),
]


@pytest.mark.parametrize(("build", "words"), UNFIT)
def test_tokens_that_are_no_map_are_refused(build, words, monkeypatch):
    with pytest.raises(vpeft.UserError, match=words):
        vpeft.attach(build(), "LoRA")
    monkeypatch.setattr(attempt, "guesses", lambda backbone: [])
    model = vpeft.attach(build(), "LoRA")
    with pytest.raises(vpeft.UserError, match=words):
        model(torch.randn(1, 3, 32, 32))


def test_a_block_without_a_pass_is_refused():
    model = vpeft.attach(Mine(), "LoRA")
    with pytest.raises(vpeft.UserError, match="in a pass that begins with the patch embedding"):
        model.blocks[0](torch.randn(1, 18, 64))


def test_without_a_patch_embedding_there_is_none():
    assert hosts_in(nn.Sequential(Block(64, 4))) == {}
    with pytest.raises(vpeft.UserError, match="no host found in Sequential"):
        vpeft.attach(nn.Sequential(nn.Conv2d(3, 32, 8, 8), Block(64, 4)), "AdaptFormer")


def test_checkpointing_gives_the_same_gradients():
    models = [perturb(vpeft.attach(made(Mine), "LoRA")) for _ in range(2)]
    for block in models[1].blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    for model in models:
        loss(model(images(32))).backward()
    for key, param in trained(models[0]).items():
        torch.testing.assert_close(trained(models[1])[key].grad, param.grad)


def test_a_class_of_many_layers_is_a_kind_only_where_its_parts_say_so():
    """mmcv's layer of other operations than TimeSformer's is no block: the network is read by what it calls."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            attention = {"type": "MultiheadAttention", "embed_dims": 16, "num_heads": 2, "batch_first": True}
            mlp = {"type": "FFN", "embed_dims": 16, "feedforward_channels": 32, "num_fcs": 2}
            order = ("self_attn", "norm", "ffn", "norm")
            self.patches = nn.Conv2d(3, 16, 4, 4)
            self.layer = BaseTransformerLayer(attention, mlp, order, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.patches(x).flatten(2).transpose(1, 2))

    model = vpeft.attach(Encoder(), "LoRA", sample=torch.randn(1, 3, 16, 16))
    assert model.peft_adaptation.host.registered_name() == "generic"


def test_what_a_pass_refuses_is_refused_when_attaching():
    """CrossViT has two streams, MobileViT cuts its map into batches: no pass that is trained on would be right."""
    for name, options in (
        ("crossvit_tiny_240", {"depth": ((1, 1, 0),)}),
        ("mobilevit_xxs", {}),
    ):
        model = timm.create_model(name, num_classes=3, **options)
        plain, classes = {k: v.clone() for k, v in model.state_dict().items()}, [type(m) for m in model.modules()]
        with pytest.raises(vpeft.UserError, match=r"block \d gets \d+ tokens, which are not those of its map"):
            vpeft.attach(model, "LoRA")
        assert model.state_dict().keys() == plain.keys()
        assert [type(m) for m in model.modules()] == classes
        assert all(torch.equal(value, plain[key]) for key, value in model.state_dict().items())
        assert model.training
