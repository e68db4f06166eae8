"""``vpeft.ClipBackbone``: a backbone of images on the frames of clips."""

import copy
from pathlib import Path

import pytest
import torch
from mmaction.structures import ActionDataSample

import vpeft
from vpeft.apis.config.load import build_model, load_config
from vpeft.apis.testing.hosts.mmpretrain.vit import mm_vit
from vpeft.apis.testing.models import perturb
from vpeft.core.models.build import meta_build
from vpeft.core.models.clips import ClipBackbone
from vpeft.core.models.maps import Backbone
from vpeft.registry import MODELS

ROOT = Path(__file__).parents[3]
TINY_VIT = {"weights": False, "img_size": 32}


def clips(count=2, frames=3, size=32):
    return torch.randn(count, 3, frames, size, size, generator=torch.Generator().manual_seed(5))


def of_frames(model, x):
    """The mean over frames of what an image backbone gives, one frame at a time."""
    return torch.stack([model(x[:, :, t]) for t in range(x.shape[2])], 1).mean(1)


@pytest.mark.parametrize("out", ["pooled", "cls", "mean"])
def test_a_network_by_name(out):
    torch.manual_seed(0)
    model = ClipBackbone("timm/test_vit", out=out, **TINY_VIT).eval()
    image = Backbone("timm/test_vit", out=out, as_tuple=False, **TINY_VIT).eval()
    image.load_state_dict({k.removeprefix("image."): v for k, v in model.state_dict().items()})
    with torch.no_grad():
        torch.testing.assert_close(model(clips()), of_frames(image, clips()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("out_type", ["cls_token", "featmap", "raw"])
def test_a_module_gives_the_mean_over_places_and_frames(out_type):
    image = mm_vit(out_type=out_type)
    image.eval()
    with torch.no_grad():
        found = ClipBackbone(image)(clips())

        def one(x):
            y = image(x)[0]
            return y if y.dim() == 2 else y.flatten(2).mean(2) if y.dim() == 4 else y.mean(1)

        torch.testing.assert_close(found, of_frames(one, clips()), rtol=1e-5, atol=1e-6)
    assert found.shape == (2, 64)


def test_checkpoints_are_those_of_the_image_backbone(tmp_path):
    torch.manual_seed(0)
    plain = mm_vit(out_type="cls_token")
    torch.save({"state_dict": {f"backbone.{k}": v for k, v in plain.state_dict().items()}}, tmp_path / "vit.pth")
    settings = {
        "type": "mmpretrain.VisionTransformer",
        "arch": {"embed_dims": 64, "num_layers": 3, "num_heads": 4, "feedforward_channels": 128},
        "img_size": 32,
        "patch_size": 8,
        "init_cfg": {"type": "Pretrained", "checkpoint": str(tmp_path / "vit.pth"), "prefix": "backbone."},
    }
    model = MODELS.build({"type": "vpeft.PEFT", "of": "vpeft.ClipBackbone", "image": settings, "method": "ST-Adapter"})
    model.init_weights()
    state = model.state_dict()
    assert {k for k in state if ".peft." not in k} == {f"image.{k}" for k in plain.state_dict()}
    assert all(torch.equal(state[f"image.{k}"], v) for k, v in plain.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(clips()), ClipBackbone(plain).eval()(clips()))


def test_adapters_of_images_and_clips_are_the_same(tmp_path):
    """A file of the one loads into the other; switching, merging and detaching work as on images."""
    image = mm_vit(out_type="cls_token")
    model = vpeft.attach(ClipBackbone(copy.deepcopy(image)), "LoRA")
    perturb(model).eval()
    with torch.no_grad():
        out = model(clips())
        vpeft.merge(model)
        torch.testing.assert_close(model(clips()), out, rtol=1e-4, atol=1e-5)
        vpeft.unmerge(model)
        vpeft.detach(model)
        assert torch.equal(model(clips()), ClipBackbone(image).eval()(clips()))


def test_each_clip_of_a_batch_its_own_adapter(tmp_path):
    torch.manual_seed(0)
    image = mm_vit(out_type="cls_token", drop_path_rate=0.0)
    files = {}
    for seed, name in enumerate(("a", "b")):
        model = vpeft.attach(ClipBackbone(copy.deepcopy(image)), "ST-Adapter")
        perturb(model, seed=seed)
        files[name] = (vpeft.save_adapter(model, tmp_path / f"{name}.safetensors"), model.eval())
    model = ClipBackbone(copy.deepcopy(image)).eval()
    for name in files:
        vpeft.load_adapter(model, tmp_path / f"{name}.safetensors", name=name)
    with torch.no_grad():
        vpeft.use(model, ["b", "a"])
        mixed = model(clips())
        for i, name in enumerate(("b", "a")):
            torch.testing.assert_close(mixed[i : i + 1], files[name][1](clips()[i : i + 1]), rtol=1e-4, atol=1e-5)
        with pytest.raises(vpeft.UserError, match="the batch has 1 samples"):
            model(clips()[:1])


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: ClipBackbone("timm/test_vit", **TINY_VIT)(clips()[:, :, 0]), "takes clips .B, 3, T, H, W."),
        (lambda: ClipBackbone(mm_vit(), out="cls"), "out of vpeft.ClipBackbone beside image=VisionTransformer"),
        (lambda: ClipBackbone("timm/test_vit", out="clss", **TINY_VIT), "did you mean 'cls'"),
        (lambda: ClipBackbone("timm/test_vitt", **TINY_VIT), "test_vitt"),
    ],
)
def test_wrong_use_is_refused(act, words):
    with pytest.raises(vpeft.UserError, match=words):
        act()


@pytest.mark.parametrize(
    ("name", "count"),
    [("st_adapter_clip-vit-b_k400", 12 * 592_512), ("aim_clip-vit-b_ssv2", 36 * 295_872 + 7_680)],
)
def test_the_recipes_build(name, count):
    with meta_build():
        model = build_model(load_config(ROOT / f"configs/video/{name}.py"))
    assert model.cls_head.fc_cls.in_features == 768
    assert sum(p.numel() for p in model.backbone.parameters() if p.requires_grad) == count


@pytest.mark.parametrize("method", ["st_adapter", "aim"])
def test_a_step_of_the_embedded_recipes(method):
    model = build_model(load_config(ROOT / f"configs/mini/{method}_nano_vit_frames.py"))
    model.init_weights()
    model.train()
    samples = [ActionDataSample() for _ in range(2)]
    for i, sample in enumerate(samples):
        sample.set_gt_labels(i)
    model(clips(frames=8)[:, None], samples, mode="loss")["loss_cls"].backward()
    trained = {k for k, p in model.named_parameters() if p.requires_grad}
    assert all(".peft." in k or k.startswith("cls_head.") or "image.ln1" in k for k in trained)
