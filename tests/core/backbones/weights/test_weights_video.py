"""Video checkpoints in mmaction2's backbones, and images' weights inflated, against mmaction2's own loading."""

import argparse
import re

import pytest
import torch
import torch.nn.functional as F
from mmaction.models.backbones import SwinTransformer3D
from mmaction.models.backbones import VisionTransformer as VideoViT
from mmaction.models.backbones.vit_mae import get_sinusoid_encoding
from mmengine.runner.checkpoint import load_checkpoint
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
    save_torch,
    timm_swin,
    timm_vit,
)
from torch import nn

import vpeft
from vpeft.core.backbones.weights import load_pretrained
from vpeft.core.backbones.weights.resize import resize_video_table
from vpeft.errors import UserError

STAGES = {"embed_dims": 16, "depths": [2, 1, 1, 1], "num_heads": [1, 2, 4, 4]}


def video_vit(**options):
    settings = {"img_size": 16, "patch_size": 8, "embed_dims": DIM, "depth": DEPTH, "num_heads": HEADS}
    return evaluating(VideoViT(**{**settings, "mlp_ratio": 2, "num_frames": 8, **options}))


def video_swin(**options):
    settings = {"patch_size": (2, 4, 4), "window_size": (2, 3, 3), "out_indices": (0, 3), "pretrained2d": False}
    return evaluating(SwinTransformer3D(**{"arch": STAGES, **settings, **options}))


def official_videomae(model):
    """An mmaction2 ViT by the names of VideoMAE's code, whose sinusoid is no part of the state."""
    names = {"projection": "proj", "mlp.layers.0.0": "mlp.fc1", "mlp.layers.1": "mlp.fc2"}
    state = {}
    for key, value in model.state_dict().items():
        for old, new in names.items():
            key = key.replace(old, new)
        state[key] = value
    if "pos_embed" in dict(model.named_buffers()):
        del state["pos_embed"]
    return state


def clip(frames=8, size=16, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, frames, size, size, generator=generator, dtype=torch.float64)


def check_same(backbone, reference, x, within=1e-10):
    with torch.no_grad():
        y, z = backbone.double()(x), reference.double()(x)
    pairs = zip(y, z, strict=True) if isinstance(z, tuple) else [(y, z)]
    for y, z in pairs:
        assert z.std() > 0.05
        assert largest_difference(y, z) < within


# VideoMAE -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", ["model", "module"])
@pytest.mark.parametrize("scaled", [0.0, 0.1])
def test_finetuned_videomae(tmp_path, container, scaled):
    source = randomise(video_vit(init_values=scaled))
    state = {**official_videomae(source), "head.weight": torch.ones(5, DIM), "head.bias": torch.ones(5)}
    path = save_torch({container: state, "epoch": 99, "args": argparse.Namespace(lr=1)}, tmp_path / "finetuned.pth")
    backbone = video_vit(init_values=scaled)
    report = load_pretrained(backbone, path)
    assert report.format == "videomae"
    assert report.left_out == dict.fromkeys(("head.weight", "head.bias"), "head, trained anew for the task")
    assert len(report.loaded) == len(backbone.state_dict()) - 1
    assert report.resized == report.inflated == {}
    check_same(backbone, source, clip())


def test_pretrained_videomae(tmp_path):
    source = randomise(video_vit(use_mean_pooling=False, return_feat_map=True))
    state = {f"encoder.{key}": value for key, value in official_videomae(source).items()}
    others = {"mask_token": (1, 1, 8), "encoder_to_decoder.weight": (8, DIM), "decoder.blocks.0.norm1.weight": (8,)}
    state |= {key: torch.ones(shape) for key, shape in others.items()}
    path = save_torch({"model": state}, tmp_path / "pretrained.pth")
    backbone = video_vit(use_mean_pooling=False, return_feat_map=True)
    report = load_pretrained(backbone, path)
    assert report.left_out == dict.fromkeys(others, "decoder of masked pretraining")
    check_same(backbone, source, clip())
    # As VideoMAE's own fine-tuning does, the norm of the pooled tokens starts anew.
    report = load_pretrained(video_vit(), path)
    assert report.kept == ["fc_norm.weight", "fc_norm.bias"]
    assert report.left_out["norm.weight"] == "output norm that the backbone does not have"


def test_videomae_of_mmaction_equals_its_own_loading(tmp_path):
    source = randomise(video_vit())
    state = {f"backbone.{key}": value for key, value in source.state_dict().items()}
    state |= {"cls_head.fc_cls.weight": torch.ones(5, DIM), "cls_head.fc_cls.bias": torch.ones(5)}
    path = save_torch({"state_dict": state, "meta": {}}, tmp_path / "mmaction.pth")
    backbone = video_vit()
    report = load_pretrained(backbone, path)
    assert report.format == "mmaction_vit"
    assert set(report.left_out) == {"cls_head.fc_cls.weight", "cls_head.fc_cls.bias"}
    own = nn.Module()
    own.backbone = video_vit()
    load_checkpoint(own, path, logger="silent")
    check_same(backbone, own.backbone, clip())


@pytest.mark.parametrize("options", [{"num_frames": 16}, {"img_size": 32}, {"num_frames": 4, "img_size": 32}])
def test_sinusoid_of_another_clip_is_worked_out(tmp_path, options):
    path = save_torch({"state_dict": randomise(video_vit()).state_dict()}, tmp_path / "mmaction.pth")
    backbone = video_vit(**options)
    report = load_pretrained(backbone, path)
    assert report.left_out["pos_embed"] == "buffer, worked out from the size of the clip"
    assert torch.equal(backbone.pos_embed, get_sinusoid_encoding(backbone.pos_embed.shape[1], DIM))


def test_learned_positions_of_another_clip(tmp_path):
    source = randomise(video_vit(use_learnable_pos_emb=True))
    path = save_torch({"state_dict": source.state_dict()}, tmp_path / "mmaction.pth")
    positions = source.pos_embed.detach().unflatten(1, (4, 2, 2))
    longer = video_vit(use_learnable_pos_emb=True, num_frames=16)
    assert load_pretrained(longer, path).resized == {"pos_embed": ((1, 16, DIM), (1, 32, DIM))}
    series = positions.permute(0, 2, 3, 4, 1).reshape(1, -1, 4)
    expected = F.interpolate(series, size=8, mode="linear").unflatten(1, (2, 2, DIM)).permute(0, 4, 1, 2, 3)
    assert largest_difference(longer.pos_embed.unflatten(1, (8, 2, 2)), expected) < 1e-6
    larger = video_vit(use_learnable_pos_emb=True, img_size=24)
    assert load_pretrained(larger, path).resized == {"pos_embed": ((1, 16, DIM), (1, 36, DIM))}
    # mmaction2 resizes in space at run time, here in double precision.
    check_same(larger, source, clip(size=24), within=1e-6)


def test_positions_that_cannot_be_told(tmp_path):
    source = randomise(video_vit(use_learnable_pos_emb=True))
    path = save_torch({"state_dict": source.state_dict()}, tmp_path / "mmaction.pth")
    with pytest.raises(UserError, match=r"has the shape \(1, 16, 32\), .* neither the frames nor the grid can be"):
        load_pretrained(video_vit(use_learnable_pos_emb=True, num_frames=6, img_size=24), path)
    with pytest.raises(UserError, match=r"4 positions \(1 x 2 x 2\), of which either the frames or the grid can be"):
        load_pretrained(video_vit(use_learnable_pos_emb=True, num_frames=2), path)
    path = save_torch({"model": official_videomae(video_vit())}, tmp_path / "official.pth")
    with pytest.raises(UserError, match=r"lacks pos_embed. Set .* \(use_learnable_pos_emb\)"):
        load_pretrained(video_vit(use_learnable_pos_emb=True), path)


def test_wrong_files_for_a_video_vit(tmp_path):
    state = official_videomae(video_vit())
    path = save_torch({"model": state}, tmp_path / "videomae.pth")
    with pytest.raises(UserError, match=r"weights of a video ViT \(videomae\), and VisionTransformer is a ViT"):
        load_pretrained(mm_vit(), path)
    with pytest.raises(UserError, match="SwinTransformer3D is a video Swin"):
        load_pretrained(video_swin(), path)
    with pytest.raises(UserError, match=r"first patch_embed.proj.weight: .*\(32, 3, 2, 8, 8\).*\(32, 3, 4, 8, 8\)"):
        load_pretrained(video_vit(tubelet_size=4, num_frames=16), path)
    lacking = {key: value for key, value in state.items() if key != "blocks.1.attn.v_bias"}
    with pytest.raises(UserError, match=r"lacks blocks\.1\.attn\.v_bias"):
        load_pretrained(video_vit(), save_torch({"model": lacking}, tmp_path / "lacking.pth"))
    content = (tmp_path / "videomae.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="cut short"):
        load_pretrained(video_vit(), str(tmp_path / "cut.pth"))


def test_google_vit_on_a_still_clip_equals_timm(tmp_path):
    reference = timm_vit()
    backbone = video_vit(img_size=32, use_mean_pooling=False, return_feat_map=True)
    report = load_pretrained(backbone, save_npz(reference, tmp_path / "vit.npz"))
    assert report.format == "google_npz"
    assert report.inflated == {"patch_embed.projection.weight": ((DIM, 3, 8, 8), (DIM, 3, 2, 8, 8))}
    assert report.resized == {"pos_embed": ((1, 17, DIM), (1, 64, DIM))}
    assert report.left_out["cls"] == "class token, which the backbone does not have"
    middle = [key for key, why in report.left_out.items() if why == "bias of the keys, which cancels in the softmax"]
    assert len(middle) == DEPTH
    no_class = timm_vit(class_token=False, global_pool="", seed=7)
    state = {key: value for key, value in reference.state_dict().items() if key != "cls_token"}
    state["pos_embed"] = state["pos_embed"][:, 1:]
    no_class.load_state_dict(state)
    x = image(32)
    with torch.no_grad():
        y = backbone.double()(x.unsqueeze(2).repeat(1, 1, 8, 1, 1)).unflatten(1, (DIM,))
        z = no_class.double().forward_features(x).transpose(1, 2).unflatten(2, (4, 4)).unsqueeze(2)
    assert z.std() > 0.1
    assert largest_difference(y, z.expand_as(y)) < 1e-10


def test_timm_vit_with_layer_scale_inflated(tmp_path):
    reference = timm_vit(init_values=0.1)
    path = save_torch(reference.state_dict(), tmp_path / "dinov2.pth")
    backbone = video_vit(img_size=32, init_values=0.1)
    assert load_pretrained(backbone, path).kept == ["fc_norm.weight", "fc_norm.bias"]
    for i, block in enumerate(backbone.blocks):
        assert torch.equal(block.gamma_1, reference.blocks[i].ls1.gamma)
        assert torch.equal(block.gamma_2, reference.blocks[i].ls2.gamma)
    with pytest.raises(UserError, match=r"has blocks\.0\.ls1\.gamma, .* with no place in the backbone"):
        load_pretrained(video_vit(img_size=32), path)


# Video Swin -----------------------------------------------------------------------------------------------------------


def official_video_swin(model):
    """An mmaction2 Video Swin, with one output, as the official repository saves its recogniser."""
    state = {f"backbone.{re.sub(r'^norm3', 'norm', key)}": value for key, value in model.state_dict().items()}
    return {**state, "cls_head.fc_cls.weight": torch.ones(5, 128), "cls_head.fc_cls.bias": torch.ones(5)}


def test_official_video_swin(tmp_path):
    source = randomise(video_swin(out_indices=(3,)))
    path = save_torch({"state_dict": official_video_swin(source), "meta": {}}, tmp_path / "swin_k400.pth")
    backbone = video_swin(out_indices=(3,))
    report = load_pretrained(backbone, path)
    assert report.format == "video_swin"
    assert report.left_out["cls_head.fc_cls.weight"] == "outside 'backbone.'"
    assert report.kept == report.missing == []
    check_same(backbone, source, clip(7, 45))
    report = load_pretrained(video_swin(), path)
    assert report.kept == ["norm0.weight", "norm0.bias"]


def test_video_swin_of_mmaction_equals_its_own_loading(tmp_path):
    source = randomise(video_swin())
    state = {f"backbone.{key}": value for key, value in source.state_dict().items()}
    path = save_torch({"state_dict": {**state, "cls_head.fc_cls.weight": torch.ones(5)}}, tmp_path / "mmaction.pth")
    backbone = video_swin()
    load_pretrained(backbone, path)
    own = nn.Module()
    own.backbone = video_swin()
    load_checkpoint(own, path, logger="silent")
    check_same(backbone, own.backbone, clip(7, 45))


@pytest.mark.parametrize("window", [(2, 3, 3), (3, 4, 4)])
@pytest.mark.parametrize("form", ["official_swin", "timm_swin", "openmmlab_swin"])
def test_image_swin_inflated_equals_mmaction(tmp_path, form, window):
    arch = {"depths": (2, 1, 1, 1), "num_heads": (1, 2, 4, 4), "window_size": 3, "img_size": 96}
    reference = timm_swin(**arch)
    path = save_torch({"model": official_swin_state(reference, 3)}, tmp_path / "official.pth")
    given = path
    if form == "timm_swin":
        given = save_torch(reference.state_dict(), tmp_path / "timm.pth")
    elif form == "openmmlab_swin":
        first = mm_swin(arch={**STAGES}, window_size=3, img_size=96, out_indices=(3,))
        load_pretrained(first, path)
        given = save_torch(first.state_dict(), tmp_path / "mm.pth")
    backbone = video_swin(window_size=window)
    report = load_pretrained(backbone, given)
    assert report.format == form
    assert report.inflated == {"patch_embed.proj.weight": ((16, 3, 4, 4), (16, 3, 2, 4, 4))}
    assert len(report.resized) == 5
    assert report.kept == ["norm0.weight", "norm0.bias"]
    own = video_swin(window_size=window, pretrained=path, pretrained2d=True)
    own.init_weights()
    check_same(backbone, own, clip(7, 45))


def test_images_tables_of_a_clips_length_are_inflated_all_the_same(tmp_path):
    # 15 x 15 offsets of a window of 8 are as many as the 9 x 5 x 5 of a clip's window.
    state = timm_swin(depths=(2, 1, 1, 1), num_heads=(1, 2, 4, 4), window_size=8, img_size=256).state_dict()
    name = "layers.0.blocks.0.attn.relative_position_bias_table"
    backbone = video_swin(window_size=(5, 3, 3))
    assert load_pretrained(backbone, save_torch(state, tmp_path / "swin.pth")).resized[name] == ((225, 1), (225, 1))
    slices = backbone.get_parameter(name).unflatten(0, (9, 25))
    assert torch.equal(slices, slices[:1].expand_as(slices))
    # 8 x 8 positions of an image are as many as the 4 x 4 x 4 of a clip.
    state = timm_vit(img_size=64, class_token=False, global_pool="avg").state_dict()
    backbone = video_vit(img_size=32)
    load_pretrained(backbone, save_torch(state, tmp_path / "vit.pth"))
    slices = backbone.pos_embed.unflatten(1, (4, 16))
    assert torch.equal(slices, slices[:, :1].expand_as(slices))


def test_shorter_window_keeps_the_offsets_of_a_longer_one(tmp_path):
    source = randomise(video_swin(window_size=(4, 3, 3)))
    shorter = video_swin(window_size=(2, 3, 3))
    report = load_pretrained(shorter, save_torch(source.state_dict(), tmp_path / "swin.pth"))
    assert len(report.resized) == 5
    # On two tubelets both see one window.
    check_same(shorter, source, clip(4, 48))


def test_longer_window_extends_the_farthest_offset():
    table = torch.randn(3 * 25, 2)
    longer = resize_video_table(table, 3, (4, 3, 3)).unflatten(0, (7, 25))
    expected = table.unflatten(0, (3, 25))[[0, 0, 0, 1, 2, 2, 2]]
    assert torch.equal(longer, expected)


def test_window_of_another_length_and_width(tmp_path):
    source = randomise(video_swin(window_size=(2, 4, 4)))
    backbone = video_swin(window_size=(3, 3, 3))
    report = load_pretrained(backbone, save_torch(source.state_dict(), tmp_path / "swin.pth"))
    table = "layers.0.blocks.0.attn.relative_position_bias_table"
    assert report.resized[table] == ((3 * 49, 1), (5 * 25, 1))
    middle = source.get_parameter(table)[49:98].T.unflatten(1, (7, 7)).unsqueeze(0)
    expected = F.interpolate(middle, size=(5, 5), mode="bicubic").flatten(1)
    assert largest_difference(backbone.get_parameter(table).unflatten(0, (5, 25))[2].T, expected) < 1e-6


def test_wrong_files_for_a_video_swin(tmp_path):
    state = randomise(video_swin(window_size=(5, 3, 3))).state_dict()
    path = save_torch(state, tmp_path / "swin.pth")
    # 9 x 5 x 5 offsets are also 25 x 3 x 3.
    with pytest.raises(UserError, match=r"whose window .* could be several beside the backbone's 2x4x4"):
        load_pretrained(video_swin(window_size=(2, 4, 4)), path)
    with pytest.raises(UserError, match=r"weights of a video Swin \(video_swin\), and SwinTransformer is a Swin"):
        load_pretrained(mm_swin(), path)
    del state["layers.0.downsample.norm.weight"]
    with pytest.raises(UserError, match=r"lacks layers\.0\.downsample\.norm\.weight"):
        load_pretrained(video_swin(), save_torch(state, tmp_path / "lacking.pth"))
    state["layers.0.blocks.0.attn.relative_position_bias_table"] = torch.zeros(32, 1)
    with pytest.raises(UserError, match="is no square one beside the backbone's 2x3x3"):
        load_pretrained(video_swin(), save_torch(state, tmp_path / "odd.pth"), strict=False)


def test_only_init_cfg_names_a_file(tmp_path):
    from mmengine.registry import MODELS

    cfg = {"type": "vpeft.PEFT", "of": "mmaction.VisionTransformer", "method": "LoRA", "pretrained": "a.pth"}
    with pytest.raises(UserError, match=r"init_cfg=dict\(type='Pretrained', checkpoint='a.pth'\)"):
        MODELS.build(cfg)
    source = randomise(video_vit())
    path = save_torch({"model": official_videomae(source)}, tmp_path / "videomae.pth")
    init_cfg = {"type": "Pretrained", "checkpoint": path}
    backbone = vpeft.attach(video_vit(init_cfg=init_cfg), {"type": "BitFit"})
    backbone.init_weights()
    check_same(evaluating(backbone), source, clip())
