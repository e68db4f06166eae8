"""Files of every format in mmdetection's and mmsegmentation's backbones, against those packages' own loading."""

import pytest
import torch
import torch.nn.functional as F
from mmdet.models.backbones.swin import SwinTransformer as DetSwin
from mmdet.models.backbones.swin import swin_converter
from mmengine.config import ConfigDict
from mmseg.models.backbones import SwinTransformer as SegSwin
from mmseg.models.backbones import VisionTransformer as SegViT
from support.weight_files import (
    DEPTH,
    DIM,
    HEADS,
    evaluating,
    image,
    largest_difference,
    mm_swin,
    mm_vit,
    official_swin_state,
    randomise,
    save_npz,
    save_official_swin,
    save_torch,
    timm_swin,
    timm_vit,
)

from vpeft.core.backbones.weights import load_pretrained
from vpeft.errors import UserError

BLOCKS, TENSORS = 5, 4 + 13 * 5 + 2 * 3 + 2
FIRST_NORMS = ["norm0.weight", "norm0.bias", "norm1.weight", "norm1.bias"]


def dense_swin(cls, **options):
    settings = {"embed_dims": 16, "depths": (2, 2, 1), "num_heads": (1, 2, 4), "strides": (4, 2, 2)}
    return evaluating(cls(**{**settings, "window_size": 4, "out_indices": (0, 1, 2), **options}))


def seg_vit(**options):
    settings = {"img_size": 32, "patch_size": 8, "embed_dims": DIM, "num_layers": DEPTH, "num_heads": HEADS}
    settings |= {"mlp_ratio": 2, "norm_cfg": {"type": "LN", "eps": 1e-6}, "patch_bias": True, "final_norm": True}
    return evaluating(SegViT(**{**settings, **options}))


def check_same(backbone, reference, size=64):
    """Every output, on an image that no window divides."""
    x = image(size)[..., : size - 3]
    with torch.no_grad():
        pairs = list(zip(backbone.double()(x), reference.double()(x), strict=True))
    for y, z in pairs:
        assert z.std() > 0.1
        assert largest_difference(y, z) < 1e-10


@pytest.mark.parametrize("window", [4, 7])
def test_official_swin_in_mmdet_equals_its_own_conversion(tmp_path, window):
    path = save_official_swin(timm_swin(), tmp_path / "swin_22k.pth")
    backbone = dense_swin(DetSwin, window_size=window)
    report = load_pretrained(backbone, path)
    assert report.format == "official_swin"
    assert len(report.loaded) == TENSORS
    assert report.kept == FIRST_NORMS
    assert len(report.resized) == (BLOCKS if window == 7 else 0)
    # mmdet's own loading takes the file's index, here no real one, and leaves the norm out.
    state = {key: value for key, value in torch.load(path)["model"].items() if "relative_position_index" not in key}
    init_cfg = ConfigDict(type="Pretrained", checkpoint=save_torch({"model": state}, tmp_path / "own.pth"))
    own = dense_swin(DetSwin, window_size=window, convert_weights=True, init_cfg=init_cfg)
    own.init_weights()
    own.norm2.load_state_dict({"weight": state["norm.weight"], "bias": state["norm.bias"]})
    check_same(backbone, own)


@pytest.mark.parametrize("window", [4, 7])
def test_openmmlab_swin_in_mmseg_equals_its_own_loading(tmp_path, window):
    state = swin_converter(official_swin_state(timm_swin()))
    path = save_torch({"state_dict": {**state, "decode_head.conv.weight": torch.ones(1)}}, tmp_path / "upernet.pth")
    backbone = dense_swin(SegSwin, window_size=window)
    report = load_pretrained(backbone, path)
    assert report.format == "openmmlab_swin"
    assert report.left_out["decode_head.conv.weight"] == "outside 'backbone.'"
    assert len(report.loaded) == TENSORS
    plain = {key.removeprefix("backbone."): value for key, value in state.items() if "index" not in key}
    plain = {key: value for key, value in plain.items() if not key.endswith("attn_mask")}
    own_path = save_torch(plain, tmp_path / "swin_mmseg.pth")
    own = dense_swin(SegSwin, window_size=window, init_cfg={"type": "Pretrained", "checkpoint": own_path})
    own.init_weights()
    own.norm2.load_state_dict({"weight": plain["norm.weight"], "bias": plain["norm.bias"]})
    check_same(backbone, own)


@pytest.mark.parametrize("cls", [DetSwin, SegSwin])
def test_whole_dense_checkpoint_restores_every_norm(tmp_path, cls):
    source = randomise(dense_swin(cls))
    state = {f"backbone.{key}": value for key, value in source.state_dict().items()}
    backbone = dense_swin(cls)
    report = load_pretrained(backbone, save_torch({"state_dict": state, "meta": {}}, tmp_path / "det.pth"))
    assert report.kept == []
    check_same(backbone, source)


def test_timm_swin_in_mmdet_equals_the_official_file(tmp_path):
    reference = timm_swin()
    one, two = dense_swin(DetSwin), dense_swin(DetSwin)
    load_pretrained(one, save_torch(reference.state_dict(), tmp_path / "timm.pth"))
    load_pretrained(two, save_official_swin(reference, tmp_path / "official.pth"))
    for key, value in one.state_dict().items():
        assert torch.equal(two.state_dict()[key], value), key


def test_absolute_positions_of_a_dense_swin(tmp_path):
    embedding = torch.randn(1, 256, 16)
    path = save_official_swin(timm_swin(), tmp_path / "swin.pth", absolute_pos_embed=embedding)
    same = dense_swin(DetSwin, use_abs_pos_embed=True, pretrain_img_size=64)
    larger = dense_swin(DetSwin, use_abs_pos_embed=True, pretrain_img_size=96)
    oblong = dense_swin(DetSwin, use_abs_pos_embed=True, pretrain_img_size=(64, 96))
    load_pretrained(same, path)
    assert torch.equal(same.absolute_pos_embed, embedding)
    load_pretrained(larger, path)
    grid = embedding.unflatten(1, (16, 16)).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, size=(24, 24), mode="bicubic").flatten(2).transpose(1, 2)
    assert largest_difference(larger.absolute_pos_embed, expected) < 1e-6
    with pytest.raises(UserError, match="grid of 384 patches is not square"):
        load_pretrained(oblong, path)


@pytest.mark.parametrize("form", ["google_npz", "timm_vit", "openmmlab_vit", "mmseg_vit"])
@pytest.mark.parametrize("size", [32, 48])
def test_vit_in_mmseg_equals_timm(tmp_path, form, size):
    reference, path = timm_vit(), str(tmp_path / "vit.npz")
    if form == "google_npz":
        save_npz(reference, path)
    else:
        source = {"openmmlab_vit": mm_vit, "mmseg_vit": seg_vit}.get(form)
        state = reference.state_dict()
        if source is not None:
            first = source()
            load_pretrained(first, save_torch(state, tmp_path / "timm.pth"))
            state = {f"backbone.{key}": value for key, value in first.state_dict().items()}
        path = save_torch({"state_dict": state}, tmp_path / "vit.pth")
    backbone, same = seg_vit(img_size=size), mm_vit(img_size=size)
    report = load_pretrained(backbone, path)
    assert report.format == form
    assert len(report.loaded) == len(backbone.state_dict())
    load_pretrained(same, path)
    x = image(size)
    with torch.no_grad():
        (y,) = backbone.double()(x)
        z = same.double()(x)[0] if size == 48 else reference.double().forward_features(x)
    assert z.std() > 0.1
    assert largest_difference(y.flatten(2).transpose(1, 2), z[:, 1:]) < 1e-10


def test_openmmlab_names_in_timm_backbones(tmp_path):
    for mm, timm in ((mm_vit, timm_vit), (mm_swin, timm_swin)):
        reference, first, backbone = timm(), mm(), timm(seed=7)
        load_pretrained(first, save_torch(reference.state_dict(), tmp_path / "timm.pth"))
        load_pretrained(backbone, save_torch(first.state_dict(), tmp_path / "mm.pth"))
        for key, value in backbone.state_dict().items():
            assert key.startswith("head") or torch.equal(value, reference.state_dict()[key]), key


def test_vit_without_a_place_for_the_patch_bias_is_refused(tmp_path):
    path = save_npz(timm_vit(), tmp_path / "vit.npz")
    with pytest.raises(UserError, match=r"has embedding/bias with no place .* options \(patch_bias\) to the file's"):
        load_pretrained(seg_vit(patch_bias=False), path)


def test_vit_without_a_final_norm_or_class_token(tmp_path):
    path = save_npz(timm_vit(), tmp_path / "vit.npz")
    report = load_pretrained(seg_vit(final_norm=False), path)
    assert report.left_out["Transformer/encoder_norm/scale"] == "output norm that the backbone does not have"
    backbone, same = seg_vit(with_cls_token=False), mm_vit(with_cls_token=False)
    load_pretrained(backbone, path)
    load_pretrained(same, path)
    x = image(32)
    with torch.no_grad():
        (y,) = backbone.double()(x)
        (z,) = same.double()(x)
    assert largest_difference(y.flatten(2).transpose(1, 2), z) < 1e-10


def test_wrong_files_for_dense_backbones(tmp_path):
    vit, swin = save_npz(timm_vit(), tmp_path / "vit.npz"), save_official_swin(timm_swin(), tmp_path / "swin.pth")
    with pytest.raises(UserError, match="holds the weights of a ViT"):
        load_pretrained(dense_swin(DetSwin), vit)
    with pytest.raises(UserError, match="holds the weights of a Swin"):
        load_pretrained(seg_vit(), swin)
    state = official_swin_state(timm_swin())
    del state["norm.weight"], state["layers.1.downsample.reduction.weight"]
    path = save_torch({"model": state}, tmp_path / "lacking.pth")
    lacking = r"lacks norm2.weight, stages.1.downsample.reduction.weight|lacks stages.1.downsample.*, norm2.weight"
    with pytest.raises(UserError, match=lacking):
        load_pretrained(dense_swin(SegSwin), path)
    content = (tmp_path / "swin.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="cut short"):
        load_pretrained(dense_swin(DetSwin), str(tmp_path / "cut.pth"))
