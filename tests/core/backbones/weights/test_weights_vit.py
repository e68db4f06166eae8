"""ViT weights of every format give the features of timm's own forward."""

import json
import logging

import pytest
import timm
import torch
from mmpretrain.models import VisionTransformer
from safetensors.torch import save_file
from support.weight_files import (
    DEPTH,
    DIM,
    image,
    largest_difference,
    mm_vit,
    randomise,
    save_npz,
    save_torch,
    timm_vit,
)
from timm.models.vision_transformer import _load_weights

import vpeft
from vpeft.core.backbones import nano
from vpeft.core.backbones.weights import load_pretrained

TENSORS = 4 + 12 * DEPTH + 2


def check_equal(backbone, reference, size=32):
    x = image(size)
    with torch.no_grad():
        expected = reference.double().forward_features(x)
        assert expected.std() > 0.1
        assert largest_difference(backbone.double()(x)[0], expected) < 1e-10


def test_google_npz_equals_timm(tmp_path):
    reference = timm_vit()
    path = save_npz(reference, tmp_path / "vit.npz")
    backbone = mm_vit()
    report = load_pretrained(backbone, path)
    assert report.format == "google_npz"
    assert len(report.loaded) == TENSORS == len(backbone.state_dict())
    assert report.missing == report.unexpected == report.kept == []
    assert report.resized == {}
    assert set(report.left_out) == {"head/kernel", "head/bias", "pre_logits/kernel", "pre_logits/bias"}
    check_equal(backbone, reference)


def test_the_npz_of_these_tests_is_read_alike_by_timm(tmp_path):
    reference = timm_vit()
    path = save_npz(reference, tmp_path / "vit.npz")
    other = timm_vit(seed=7)
    with torch.no_grad():
        _load_weights(other, path)
    for key, value in reference.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key


def test_google_npz_into_a_timm_backbone(tmp_path):
    reference = timm_vit()
    path = save_npz(reference, tmp_path / "vit.npz")
    backbone = timm_vit(seed=7, num_classes=9)
    head = backbone.head.weight.clone()
    report = load_pretrained(backbone, path)
    assert len(report.loaded) == TENSORS
    assert torch.equal(backbone.head.weight, head)
    x = image()
    with torch.no_grad():
        difference = largest_difference(backbone.double().forward_features(x), reference.double().forward_features(x))
    assert difference == 0


def test_into_a_timm_backbone_with_a_pooled_norm(tmp_path):
    path = save_npz(timm_vit(), tmp_path / "vit.npz")
    backbone = timm_vit(seed=7, global_pool="avg", fc_norm=True)
    report = load_pretrained(backbone, path)
    assert report.kept == ["fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"]
    assert "Transformer/encoder_norm/scale" in report.left_out


def test_another_grid_in_a_timm_backbone(tmp_path):
    path = save_npz(timm_vit(), tmp_path / "vit.npz")
    backbone, same = timm_vit(seed=7, img_size=48), mm_vit(img_size=48)
    load_pretrained(backbone, path)
    load_pretrained(same, path)
    assert torch.equal(backbone.pos_embed, same.pos_embed)


@pytest.mark.parametrize("form", ["plain", "model", "state_dict", "safetensors", "module"])
def test_timm_state_dict_equals_timm(tmp_path, form):
    reference = timm_vit()
    state = reference.state_dict()
    if form == "safetensors":
        path = tmp_path / "vit.safetensors"
        save_file(state, path)
    elif form == "module":
        path = save_torch({f"module.{k}": v for k, v in state.items()}, tmp_path / "vit.pth")
    else:
        path = save_torch(state if form == "plain" else {form: state, "epoch": 3}, tmp_path / "vit.bin")
    backbone = mm_vit()
    report = load_pretrained(backbone, path)
    assert report.format == "timm_vit"
    assert len(report.loaded) == TENSORS
    assert {"head.weight", "head.bias"} <= {key.removeprefix("module.") for key in report.left_out}
    check_equal(backbone, reference)


def test_layer_scale_equals_timm(tmp_path):
    reference = timm_vit(init_values=0.1)
    path = save_torch(reference.state_dict(), tmp_path / "vit.pth")
    backbone = mm_vit(layer_scale_init_value=0.1)
    assert len(load_pretrained(backbone, path).loaded) == TENSORS + 2 * DEPTH
    check_equal(backbone, reference)


def test_pooled_norm_equals_timm(tmp_path):
    reference = timm_vit(global_pool="avg", fc_norm=True)
    path = save_torch(reference.state_dict(), tmp_path / "vit.pth")
    backbone = mm_vit(out_type="avg_featmap", final_norm=False)
    report = load_pretrained(backbone, path)
    assert report.kept == report.missing == []
    x = image()
    with torch.no_grad():
        features = reference.double().forward_head(reference.forward_features(x), pre_logits=True)
        assert largest_difference(backbone.double()(x)[0], features) < 1e-10


def test_masked_pretraining_file_keeps_the_pooled_norm_and_leaves_the_decoder_out(tmp_path):
    state = {**timm_vit().state_dict(), "mask_token": torch.zeros(1, 1, DIM), "decoder_embed.weight": torch.zeros(2, 2)}
    backbone = mm_vit(out_type="avg_featmap", final_norm=False)
    report = load_pretrained(backbone, save_torch({"model": state}, tmp_path / "mae.pth"))
    assert report.kept == ["ln2.weight", "ln2.bias"]
    assert torch.equal(backbone.ln2.weight, torch.ones(DIM))
    assert {"mask_token", "decoder_embed.weight", "norm.weight", "norm.bias"} <= set(report.left_out)


def test_a_layer_scale_that_the_backbone_lacks_is_not_dropped_silently(tmp_path):
    path = save_torch(timm_vit(init_values=0.1).state_dict(), tmp_path / "vit.pth")
    report = load_pretrained(mm_vit(), path, strict=False)
    assert report.unexpected == [f"blocks.{i}.ls{j}.gamma" for i in range(DEPTH) for j in (1, 2)]


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_openmmlab_checkpoint(tmp_path, prefix):
    source = randomise(mm_vit())
    state = {prefix + key: value for key, value in source.state_dict().items()}
    if prefix:
        state["head.layers.head.weight"] = torch.zeros(3, DIM)
    backbone = mm_vit()
    report = load_pretrained(backbone, save_torch({"state_dict": state, "meta": {"epoch": 1}}, tmp_path / "mm.pth"))
    assert report.format == "openmmlab_vit"
    assert set(report.left_out) == ({"head.layers.head.weight"} if prefix else set())
    for key, value in source.state_dict().items():
        assert torch.equal(backbone.state_dict()[key], value), key


def test_explicit_prefix(tmp_path):
    reference = timm_vit()
    state = {f"student.encoder.{key}": value for key, value in reference.state_dict().items()}
    path = save_torch({**state, "other.weight": torch.zeros(1)}, tmp_path / "vit.pth")
    for prefix in ("student.encoder", "student.encoder."):
        backbone = mm_vit()
        report = load_pretrained(backbone, path, prefix=prefix)
        assert report.left_out["other.weight"] == "outside 'student.encoder.'"
        check_equal(backbone, reference.float())


def test_position_embedding_of_another_grid(tmp_path):
    reference = timm_vit()
    path = save_npz(reference, tmp_path / "vit.npz")
    backbone = mm_vit(img_size=(48, 64))
    report = load_pretrained(backbone, path)
    assert report.resized == {"pos_embed": ((1, 17, DIM), (1, 49, DIM))}
    own = mm_vit(img_size=(48, 64))
    own.load_state_dict({"pos_embed": reference.pos_embed.detach()}, strict=False)
    assert torch.equal(backbone.pos_embed, own.pos_embed)
    assert torch.equal(backbone.pos_embed[:, 0], reference.pos_embed[:, 0])


def test_resized_positions_equal_the_same_image_size_at_run_time(tmp_path):
    path = save_npz(timm_vit(), tmp_path / "vit.npz")
    small, large = mm_vit(), mm_vit(img_size=48)
    load_pretrained(small, path)
    load_pretrained(large, path)
    x = image(48).float()
    with torch.no_grad():
        assert largest_difference(small(x)[0], large(x)[0]) < 1e-5


def test_backbone_without_class_token(tmp_path):
    reference = timm_vit()
    path = save_npz(reference, tmp_path / "vit.npz")
    backbone = mm_vit(with_cls_token=False)
    report = load_pretrained(backbone, path)
    assert report.left_out["cls"] == "class token, which the backbone does not have"
    assert torch.equal(backbone.pos_embed, reference.pos_embed[:, 1:])


def test_named_timm_architecture(tmp_path):
    reference = randomise(timm.create_model("deit_tiny_patch16_224", depth=2))
    arch = {"embed_dims": 192, "num_layers": 2, "num_heads": 3, "feedforward_channels": 768}
    backbone = mm_vit(arch=arch, img_size=224, patch_size=16)
    load_pretrained(backbone, save_torch(reference.state_dict(), tmp_path / "deit.pth"))
    check_equal(backbone, reference, 224)


def test_half_precision_file_keeps_the_dtype_of_the_backbone(tmp_path):
    reference = timm_vit().half()
    backbone = mm_vit()
    load_pretrained(backbone, save_torch(reference.state_dict(), tmp_path / "vit.pth"))
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}
    assert torch.equal(backbone.cls_token, reference.cls_token.float())


@pytest.mark.parametrize("method", [{"type": "LoRA", "rank": 2}, {"type": "BitFit"}])
def test_init_cfg_of_an_adapted_backbone(tmp_path, method):
    reference = timm_vit()
    path = save_npz(reference, tmp_path / "vit.npz")
    backbone = vpeft.attach(mm_vit(init_cfg={"type": "Pretrained", "checkpoint": path}), method)
    backbone.init_weights()
    backbone.eval()
    check_equal(backbone, reference)


def test_shipped_weights_by_their_address(tmp_path, monkeypatch):
    settings = {key: value for key, value in nano.NANO_BACKBONES["nano_vit"].items() if key != "type"}
    source = randomise(VisionTransformer(**settings))
    save_file(source.state_dict(), tmp_path / "nano_vit.safetensors")
    checksum = {"nano_vit.safetensors": nano.sha256(tmp_path / "nano_vit.safetensors")}
    (tmp_path / "checksums.json").write_text(json.dumps(checksum), encoding="utf-8")
    monkeypatch.setattr(nano, "HERE", tmp_path)
    backbone = VisionTransformer(**settings)
    report = load_pretrained(backbone, "vpeft://nano_vit")
    assert report.format == "openmmlab_vit"
    for key, value in source.state_dict().items():
        assert torch.equal(backbone.state_dict()[key], value), key


def test_log_line_says_what_happened(tmp_path, caplog):
    logger = logging.getLogger("weights-of-a-test")
    path = save_npz(timm_vit(), tmp_path / "vit.npz")
    with caplog.at_level(logging.INFO, logger.name):
        load_pretrained(mm_vit(img_size=48), path, logger=logger)
    (record,) = caplog.records
    text = record.getMessage()
    assert record.levelno == logging.INFO
    for part in (
        "google_npz",
        f"{TENSORS} tensors",
        "pos_embed (1, 17, 32) to (1, 37, 32)",
        "head/kernel",
        "head, trained",
    ):
        assert part in text
    assert "\n" not in text
