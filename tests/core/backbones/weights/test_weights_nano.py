"""The shipped nano weights in the dense and video hosts: the image host's own features, on a still clip too."""

import pytest
import torch
from mmaction.models.backbones import SwinTransformer3D
from mmaction.models.backbones import VisionTransformer as VideoViT
from mmdet.models.backbones import SwinTransformer as DetSwin
from mmengine.config import ConfigDict
from mmpretrain.models import SwinTransformer, VisionTransformer
from mmseg.models.backbones import SwinTransformer as SegSwin
from mmseg.models.backbones import VisionTransformer as SegViT
from support.weight_files import evaluating, image, largest_difference

import vpeft
from vpeft.core.backbones.nano import NANO_BACKBONES

SWIN = {"embed_dims": 24, "depths": (2, 2, 2), "num_heads": (1, 2, 4)}
DENSE = {**SWIN, "patch_size": 2, "strides": (2, 2, 2), "window_size": 4, "out_indices": (0, 1, 2)}
VIT = {"patch_size": 8, "embed_dims": 64, "num_heads": 2, "mlp_ratio": 4}
LAYER_NORM = {"norm_cfg": {"type": "LN", "eps": 1e-6}}
TUBELETS = 3


def nano(cls, name, **options):
    """A backbone with the shipped weights, as a config makes it: adapted, by its ``init_weights``."""
    init_cfg = {"type": "Pretrained", "checkpoint": f"vpeft://{name}"}
    backbone = vpeft.attach(cls(**options, init_cfg=init_cfg), {"type": "LoRA", "rank": 2})
    backbone.init_weights()
    return evaluating(backbone).double()


def image_host(name, **options):
    cls = {"nano_vit": VisionTransformer, "nano_swin": SwinTransformer}[name]
    settings = {key: value for key, value in NANO_BACKBONES[name].items() if key != "type"}
    return nano(cls, name, **{**settings, **options})


def still(x, frames):
    return x.unsqueeze(2).repeat(1, 1, frames, 1, 1)


@pytest.mark.parametrize("cls", [DetSwin, SegSwin])
def test_swin_of_dense_packages(cls):
    x = image(64)
    with torch.no_grad():
        outputs = nano(cls, "nano_swin", **DENSE)(x)
        expected = image_host("nano_swin", out_indices=(0, 1, 2))(x)
    assert [tuple(y.shape[1:]) for y in outputs] == [(24, 32, 32), (48, 16, 16), (96, 8, 8)]
    for y, z in zip(outputs, expected, strict=True):
        assert z.std() > 0.1
        assert largest_difference(y, z) < 1e-10


@pytest.mark.parametrize("size", [32, 64])
def test_segmentation_vit(size):
    options = {**VIT, **LAYER_NORM, "img_size": size, "num_layers": 6, "patch_bias": True, "final_norm": True}
    x = image(size)
    with torch.no_grad():
        (y,) = nano(SegViT, "nano_vit", **options)(x)
        (z,) = image_host("nano_vit", img_size=size, out_type="featmap")(x)
    assert z.std() > 0.1
    assert largest_difference(y, z) < 1e-10


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("size", [32, 48])
def test_video_vit_on_a_still_clip(learned, size):
    options = {**VIT, "img_size": size, "depth": 6, "num_frames": 2 * TUBELETS, "use_learnable_pos_emb": learned}
    video = nano(VideoViT, "nano_vit", use_mean_pooling=False, return_feat_map=True, **options)
    x = image(size)
    with torch.no_grad():
        y = video(still(x, 2 * TUBELETS))
        (z,) = image_host("nano_vit", img_size=size, out_type="featmap", with_cls_token=False)(x)
    assert y.shape[2] == TUBELETS
    assert z.std() > 0.1
    assert largest_difference(y, still(z, TUBELETS)) < 1e-10


@pytest.mark.parametrize("window", [1, 2, 3, 8])
def test_video_swin_on_a_still_clip(window):
    options = {"arch": {key: list(value) if key != "embed_dims" else value for key, value in SWIN.items()}}
    options |= {"patch_size": (2, 2, 2), "window_size": (window, 4, 4), "out_indices": (0, 1, 2)}
    video, x = nano(SwinTransformer3D, "nano_swin", **options), image(64)
    tubelets = 4 if window < 3 else 6
    with torch.no_grad():
        outputs = video(still(x, 2 * tubelets))
        expected = image_host("nano_swin", out_indices=(0, 1, 2))(x)
    for y, z in zip(outputs, expected, strict=True):
        assert z.std() > 0.1
        assert largest_difference(y, still(z, tubelets)) < 1e-10


def test_time_matters_once_frames_differ():
    options = {**VIT, "img_size": 32, "depth": 6, "num_frames": 4, "use_mean_pooling": False, "return_feat_map": True}
    clip = torch.stack([image(seed=1), image(seed=2), image(seed=3), image(seed=4)], dim=2)
    with torch.no_grad():
        y = nano(VideoViT, "nano_vit", **options)(clip)
    assert (y[:, :, 0] - y[:, :, 1]).abs().mean() > 0.1


@pytest.mark.parametrize(("cls", "options"), [(DetSwin, DENSE), (SegViT, {**VIT, "img_size": 32, "num_layers": 6})])
def test_a_plain_model_with_a_loader_of_its_own_refuses(cls, options):
    model = cls(**options, init_cfg=ConfigDict(type="Pretrained", checkpoint="vpeft://nano_vit"))
    with pytest.raises(vpeft.UserError, match=rf"in init_cfg of mm\w+\.{cls.__name__}: its own loader drops"):
        model.init_weights()


def test_a_plain_model_of_mmpretrain_is_filled_whole_or_refuses():
    settings = {key: value for key, value in NANO_BACKBONES["nano_vit"].items() if key != "type"}
    init_cfg = {"type": "Pretrained", "checkpoint": "vpeft://nano_vit"}
    model = VisionTransformer(**settings, init_cfg=init_cfg)
    model.init_weights()
    adapted = image_host("nano_vit")
    with torch.no_grad():
        (y,), (z,) = evaluating(model).double()(image(32)), adapted(image(32))
    assert torch.equal(y, z)
    with pytest.raises(vpeft.UserError, match="vpeft://nano_vit: "):
        VisionTransformer(**{**settings, "patch_size": 16}, init_cfg=init_cfg).init_weights()
