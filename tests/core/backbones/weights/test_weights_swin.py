"""Swin weights of every format give the features of timm's own forward."""

import pytest
import torch
from mmcv.cnn.bricks.transformer import PatchMerging
from support.weight_files import (
    image,
    largest_difference,
    mm_swin,
    official_swin_state,
    randomise,
    save_official_swin,
    save_torch,
    timm_map,
    timm_swin,
)
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table_simple
from torch import nn

from vpeft.core.backbones.weights import load_pretrained
from vpeft.core.backbones.weights.layouts.swin import unfold_order
from vpeft.core.backbones.weights.resize import resize_table

BLOCKS, TENSORS = 5, 4 + 13 * 5 + 2 * 3 + 2
TABLE = "stages.{}.blocks.{}.attn.w_msa.relative_position_bias_table"


def check_equal(backbone, reference, size=64):
    x = image(size)
    with torch.no_grad():
        expected = timm_map(reference.double(), x)
        assert expected.std() > 0.1
        assert largest_difference(backbone.double()(x)[-1], expected) < 1e-10


def test_merging_order_equals_a_plain_official_merging():
    channels, x = 3, torch.randn(2, 6, 4, 3, dtype=torch.float64)
    norm = randomise(nn.LayerNorm(4 * channels)).double()
    reduction = randomise(nn.Linear(4 * channels, 2 * channels, bias=False)).double()
    # The four neighbours in the order of the official code.
    parts = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
    expected = reduction(norm(torch.cat(parts, dim=-1))).flatten(1, 2)
    merging = PatchMerging(channels, 2 * channels).double()
    state = {"norm.weight": norm.weight, "norm.bias": norm.bias, "reduction.weight": reduction.weight}
    merging.load_state_dict({key: unfold_order(value) for key, value in state.items()})
    merged, size = merging(x.flatten(1, 2), (6, 4))
    assert size == (3, 2)
    assert largest_difference(merged, expected) < 1e-12


def test_official_swin_equals_timm(tmp_path):
    reference = timm_swin()
    backbone = mm_swin()
    report = load_pretrained(backbone, save_official_swin(reference, tmp_path / "swin.pth"))
    assert report.format == "official_swin"
    assert len(report.loaded) == TENSORS == len(backbone.state_dict()) - BLOCKS
    assert report.missing == report.unexpected == report.kept == []
    assert report.resized == {}
    assert len(report.left_out) == 2 + BLOCKS + 2
    assert report.left_out["head.weight"] == "head, trained anew for the task"
    check_equal(backbone, reference)


def test_timm_swin_equals_timm(tmp_path):
    reference = timm_swin()
    backbone = mm_swin()
    report = load_pretrained(backbone, save_torch(reference.state_dict(), tmp_path / "swin.pth"))
    assert report.format == "timm_swin"
    assert len(report.loaded) == TENSORS
    assert set(report.left_out) == {"head.fc.weight", "head.fc.bias"}
    check_equal(backbone, reference)


def test_tables_of_the_same_window_are_untouched(tmp_path):
    reference = timm_swin()
    backbone = mm_swin()
    load_pretrained(backbone, save_official_swin(reference, tmp_path / "swin.pth"))
    for stage, layer in enumerate(reference.layers):
        for i, block in enumerate(layer.blocks):
            own = backbone.stages[stage].blocks[i].attn.w_msa.relative_position_bias_table
            assert torch.equal(own, block.attn.relative_position_bias_table)


@pytest.mark.parametrize("with_index", [True, False])
def test_tables_of_another_window(tmp_path, with_index):
    reference = timm_swin()
    state = official_swin_state(reference)
    if not with_index:
        state = {key: value for key, value in state.items() if "index" not in key}
    backbone = mm_swin(window_size=8, img_size=128)
    index = backbone.stages[0].blocks[0].attn.w_msa.relative_position_index.clone()
    report = load_pretrained(backbone, save_torch({"model": state}, tmp_path / "swin.pth"))
    assert len(report.resized) == BLOCKS
    assert report.resized[TABLE.format(1, 0)] == ((49, 2), (225, 2))
    table = reference.layers[1].blocks[0].attn.relative_position_bias_table.detach()
    w_msa = backbone.stages[1].blocks[0].attn.w_msa
    assert torch.equal(w_msa.relative_position_bias_table, resize_rel_pos_bias_table_simple(table, (8, 8), (225, 2)))
    assert torch.equal(backbone.stages[0].blocks[0].attn.w_msa.relative_position_index, index)
    assert backbone(image(128).float())[0].isfinite().all()


def test_resized_table_keeps_centre_symmetry_and_constants():
    assert torch.allclose(resize_table(torch.full((49, 3), 2.5), (7, 7)), torch.full((169, 3), 2.5), atol=1e-6)
    table = torch.randn(49, 1)
    resized = resize_table(table + table.flip(0), (7, 5))
    assert resized.shape == (13 * 9, 1)
    assert largest_difference(resized, resized.flip(0)) < 1e-5


@pytest.mark.parametrize("window", [(7, 5), (5, 7), (4, 4), (3, 8)])
def test_resized_table_of_an_oblong_window_is_timms(window):
    table, size = torch.randn(49, 2), (2 * window[0] - 1, 2 * window[1] - 1)
    wanted = resize_rel_pos_bias_table_simple(table, window, (size[0] * size[1], 2))
    torch.testing.assert_close(resize_table(table, window), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_openmmlab_checkpoint(tmp_path, prefix):
    source = randomise(mm_swin())
    state = {prefix + key: value for key, value in source.state_dict().items()}
    # Files of the first versions named the last norm without its stage, and kept the shift masks.
    for kind in ("weight", "bias"):
        state[f"{prefix}norm.{kind}"] = state.pop(f"{prefix}norm2.{kind}")
    state[f"{prefix}stages.0.blocks.1.attn.attn_mask"] = torch.zeros(1)
    backbone = mm_swin()
    report = load_pretrained(backbone, save_torch({"state_dict": state}, tmp_path / "swin.pth"))
    assert report.format == "openmmlab_swin"
    assert len(report.left_out) == BLOCKS + 1
    for key, value in source.state_dict().items():
        assert torch.equal(backbone.state_dict()[key], value), key


def test_openmmlab_tables_of_another_window(tmp_path):
    path = save_torch(randomise(mm_swin()).state_dict(), tmp_path / "swin.pth")
    report = load_pretrained(mm_swin(window_size=8, img_size=128), path)
    assert len(report.resized) == BLOCKS


def test_norms_of_the_other_stages_keep_their_start(tmp_path):
    reference = timm_swin()
    backbone = mm_swin(out_indices=(0, 1, 2))
    report = load_pretrained(backbone, save_official_swin(reference, tmp_path / "swin.pth"))
    assert report.kept == ["norm0.weight", "norm0.bias", "norm1.weight", "norm1.bias"]
    assert report.missing == []
    check_equal(backbone, reference)


def test_norm_of_a_stage_that_is_no_output_is_left_out(tmp_path):
    backbone = mm_swin(out_indices=(1,))
    report = load_pretrained(backbone, save_official_swin(timm_swin(), tmp_path / "swin.pth"))
    assert report.left_out["norm.weight"] == "output norm that the backbone does not have"
    dense = randomise(mm_swin(out_indices=(0, 1, 2)))
    report = load_pretrained(backbone, save_torch(dense.state_dict(), tmp_path / "dense.pth"))
    assert torch.equal(backbone.norm1.weight, dense.norm1.weight)
    assert {"norm0.weight", "norm2.weight"} <= set(report.left_out)


def test_absolute_position_embedding(tmp_path):
    embedding = torch.randn(1, 256, 16)
    path = save_official_swin(timm_swin(), tmp_path / "swin.pth", absolute_pos_embed=embedding)
    same, larger = mm_swin(use_abs_pos_embed=True), mm_swin(use_abs_pos_embed=True, img_size=96)
    load_pretrained(same, path)
    assert torch.equal(same.absolute_pos_embed, embedding)
    report = load_pretrained(larger, path)
    assert report.resized == {"absolute_pos_embed": ((1, 256, 16), (1, 576, 16))}
    own = mm_swin(use_abs_pos_embed=True, img_size=96)
    own.load_state_dict({"absolute_pos_embed": embedding}, strict=False)
    assert torch.equal(larger.absolute_pos_embed, own.absolute_pos_embed)


def test_a_derived_class_is_loaded_alike(tmp_path):
    reference = timm_swin()
    backbone = mm_swin()
    backbone.__class__ = type("Adapted", (type(backbone),), {})
    assert len(load_pretrained(backbone, save_official_swin(reference, tmp_path / "swin.pth")).loaded) == TENSORS
    check_equal(backbone, reference)


@pytest.mark.parametrize("official", [True, False])
def test_into_a_timm_backbone(tmp_path, official):
    reference = timm_swin()
    state = official_swin_state(reference) if official else reference.state_dict()
    backbone = timm_swin(seed=7)
    report = load_pretrained(backbone, save_torch({"model": state}, tmp_path / "swin.pth"))
    heads = ["head.fc.weight", "head.fc.bias"]
    # The official head has another name; timm's own, of the same shape, is loaded.
    assert len(report.loaded) == TENSORS + (0 if official else 2)
    assert report.kept == (heads if official else [])
    with torch.no_grad():
        x = image(64).float()
        assert torch.equal(backbone.forward_features(x), reference.forward_features(x))
