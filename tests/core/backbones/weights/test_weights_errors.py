"""What is wrong with a file is said in one line, and the backbone stays as it was."""

import argparse
import fractions
import logging
import os
import pickle
import re

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.runner.checkpoint import CheckpointLoader
from support.weight_files import (
    DEPTH,
    DIM,
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
from torch import nn

from vpeft.core.backbones.weights import load_pretrained, recognise
from vpeft.core.backbones.weights.read import read_weights
from vpeft.errors import UserError


def refused(backbone, path, **options):
    """The message of the error; the path comes first, and nothing was loaded."""
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_pretrained(backbone, str(path), **options)
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, before[key]), key
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


class Runs:
    """Restoring it would run a command."""

    def __reduce__(self):
        return os.mkdir, ("made-by-a-weight-file",)


def test_missing_file(tmp_path):
    message = refused(mm_vit(), tmp_path / "none.npz")
    assert message.startswith("no such file, seen from ")
    assert "'checkpoint' in init_cfg" in message


@pytest.mark.parametrize("name", ["vit.npz", "vit.pth", "vit.safetensors", "vit.bin"])
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"version https://git-lfs.github.com/spec/v1\n"])
def test_no_checkpoint(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    message = refused(mm_vit(), path)
    assert message.startswith("cut short, or not a weight file")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_value_that_is_no_number(tmp_path, value):
    state = timm_vit().state_dict()
    state["blocks.1.mlp.fc1.weight"][3, 5] = value
    torch.save(state, tmp_path / "vit.pth")
    message = refused(mm_vit(), tmp_path / "vit.pth")
    assert message.startswith("blocks.1.mlp.fc1.weight holds NaN or infinity")


@pytest.mark.parametrize("kind", ["npz", "pth"])
@pytest.mark.parametrize("share", [0.3, 0.999])
def test_truncated_file(tmp_path, kind, share):
    path = tmp_path / f"vit.{kind}"
    if kind == "npz":
        save_npz(timm_vit(), path)
    else:
        save_torch(timm_vit().state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert refused(mm_vit(), path).startswith("cut short, or not a weight file")


def test_files_that_would_run_code_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_torch({"model": {"a": torch.ones(1)}, "hook": Runs()}, tmp_path / "a.pth")
    assert "posix.mkdir" in refused(mm_vit(), tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps({"a": Runs()}, protocol=2))
    assert "posix.mkdir" in refused(mm_vit(), tmp_path / "b.pth")
    np.savez(tmp_path / "c.npz", a=np.array([Runs()], dtype=object))
    refused(mm_vit(), tmp_path / "c.npz")
    save_torch({"model": {"a": torch.ones(1)}, "rate": fractions.Fraction(1, 2)}, tmp_path / "d.pth")
    message = refused(mm_vit(), tmp_path / "d.pth")
    assert "fractions.Fraction" in message
    assert "torch.save(model.state_dict(), path)" in message
    assert not (tmp_path / "made-by-a-weight-file").exists()


class Reaches:
    """Restoring it would read an attribute of a class that has nothing to do with log statistics."""

    def __reduce__(self):
        return getattr, (np.ndarray, "tofile")


def test_only_log_statistics_are_looked_up_by_name(tmp_path):
    save_torch({"model": {"a": torch.ones(1)}, "hook": Reaches()}, tmp_path / "a.pth")
    assert refused(mm_vit(), tmp_path / "a.pth").startswith("cut short, or not a weight file (UnpicklingError)")


def test_addresses_are_read_without_running_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_torch({"model": {"a": torch.ones(1)}, "hook": Runs()}, tmp_path / "a.pth")

    def careless(name, map_location):
        return torch.load(name.removeprefix("test://"), map_location, weights_only=False)

    schemes = {"test://": careless, **CheckpointLoader._schemes}
    monkeypatch.setattr(CheckpointLoader, "_schemes", schemes)
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    assert "posix.mkdir" in refused(mm_vit(), "test://a.pth")
    assert not (tmp_path / "made-by-a-weight-file").exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    assert refused(mm_vit(), "test://none.pth").startswith("nothing found at this address")
    source = randomise(mm_vit())
    save_torch({"state_dict": source.state_dict()}, tmp_path / "b.pth")
    backbone = mm_vit()
    load_pretrained(backbone, "test://b.pth")
    assert torch.equal(backbone.pos_embed, source.pos_embed)


def test_arguments_of_a_training_script_are_no_hindrance(tmp_path):
    state = {"model": {"a": torch.ones(2)}, "args": argparse.Namespace(lr=1.0, data="somewhere"), "epoch": 3}
    assert list(read_weights(save_torch(state, tmp_path / "run.pth"))[0]) == ["a"]
    state["args"].hook = Runs()
    assert "posix.mkdir" in refused(mm_vit(), save_torch(state, tmp_path / "bad.pth"))


def test_checkpoint_of_a_training_run_is_read(tmp_path):
    hub = MessageHub("weights-of-a-test")
    hub.update_scalar("loss", 1.0)
    save_torch({"message_hub": hub.state_dict(), "state_dict": {"a": torch.ones(2)}, "meta": {}}, tmp_path / "run.pth")
    state, left_out = read_weights(str(tmp_path / "run.pth"))
    assert list(state) == ["a"]
    assert left_out == {}


@pytest.mark.parametrize(
    ("content", "part"),
    [(torch.ones(2), "holds a Tensor"), ({"epoch": 3}, "holds no tensors by name (its keys: epoch)"), ({}, "none")],
)
def test_files_without_named_tensors(tmp_path, content, part):
    assert part in refused(mm_vit(), save_torch(content, tmp_path / "a.pth"))


def test_unknown_format(tmp_path):
    path = save_torch({"conv1.weight": torch.ones(1), "layer1.0.conv1.weight": torch.ones(1)}, tmp_path / "resnet.pth")
    message = refused(mm_vit(), path)
    assert message.startswith("not in a known format (google_npz, mmaction_vit, ")
    assert "conv1.weight, layer1.0.conv1.weight" in message


def test_wrong_architecture(tmp_path):
    swin = save_official_swin(timm_swin(), tmp_path / "swin.pth")
    vit = save_npz(timm_vit(), tmp_path / "vit.npz")
    assert "holds the weights of a Swin (official_swin), and VisionTransformer is a ViT" in refused(mm_vit(), swin)
    assert "holds the weights of a ViT (google_npz), and SwinTransformer is a Swin" in refused(mm_swin(), vit)
    # The right file is no cure for strictness.
    refused(mm_vit(), swin, strict=False)


def test_backbone_of_another_kind(tmp_path):
    path = save_torch(timm_vit().state_dict(), tmp_path / "vit.pth")
    message = refused(nn.Linear(2, 2), path)
    assert message.startswith("has this model's keys below 'norm.', 'head.', ")
    assert message.endswith("say which by prefix=...")
    message = refused(nn.LSTM(2, 2), path)
    assert message.startswith("has no keys of LSTM (its first keys: cls_token, pos_embed, ")


def test_recognise_names_the_format():
    assert recognise(timm_vit().state_dict(), mm_vit()) == "timm_vit"
    assert recognise(timm_swin().state_dict(), mm_swin()) == "timm_swin"
    assert recognise(official_swin_state(timm_swin()), mm_swin()) == "official_swin"
    assert recognise({f"backbone.{k}": v for k, v in mm_swin().state_dict().items()}, mm_swin()) == "openmmlab_swin"


def test_missing_and_unexpected_keys(tmp_path, caplog):
    state = timm_vit().state_dict()
    state["extra.weight"] = torch.zeros(1)
    for kind in ("weight", "bias"):
        del state[f"blocks.1.mlp.fc1.{kind}"], state[f"norm.{kind}"]
    path = save_torch(state, tmp_path / "vit.pth")
    message = refused(mm_vit(), path)
    assert "read as timm_vit for VisionTransformer" in message
    assert "lacks layers.1.ffn.layers.0.0.weight, layers.1.ffn.layers.0.0.bias, ln1.weight, ... (4 in all)" in message
    assert "has extra.weight with no place in the backbone" in message
    assert "strict=False" in message

    backbone = mm_vit()
    start = backbone.ln1.weight.clone()
    logger = logging.getLogger("weights-of-a-test")
    with caplog.at_level(logging.INFO, logger.name):
        report = load_pretrained(backbone, path, strict=False, logger=logger)
    assert report.missing == [
        "layers.1.ffn.layers.0.0.weight",
        "layers.1.ffn.layers.0.0.bias",
        "ln1.weight",
        "ln1.bias",
    ]
    assert report.unexpected == ["extra.weight"]
    assert torch.equal(backbone.ln1.weight, start)
    assert torch.equal(backbone.layers[2].ln2.weight, state["blocks.2.norm2.weight"])
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "MISSING layers.1.ffn" in record.getMessage()
    assert "UNEXPECTED extra.weight" in record.getMessage()


def test_more_and_fewer_blocks_than_the_file(tmp_path):
    path = save_npz(timm_vit(depth=2), tmp_path / "short.npz")
    assert re.search(r"lacks layers\.2\.ln1\.weight, .*\(12 in all\)", refused(mm_vit(), path))
    path = save_npz(timm_vit(depth=4), tmp_path / "long.npz")
    message = refused(mm_vit(), path)
    assert "lacks" not in message
    assert "encoderblock_3/" in message


def test_npz_without_a_part_of_qkv(tmp_path):
    path = save_npz(timm_vit(), tmp_path / "vit.npz")
    arrays = dict(np.load(path))
    del arrays["Transformer/encoderblock_1/MultiHeadDotProductAttention_1/key/kernel"]
    arrays["Transformer/encoderblock_1/Gate/kernel"] = np.zeros((2, 2), np.float32)
    np.savez(path, **arrays)
    report = load_pretrained(mm_vit(), path, strict=False)
    assert report.missing == ["layers.1.attn.qkv.weight"]
    at = "Transformer/encoderblock_1"
    assert sorted(report.unexpected) == [
        f"{at}/Gate/kernel",
        f"{at}/MultiHeadDotProductAttention_1/query/kernel",
        f"{at}/MultiHeadDotProductAttention_1/value/kernel",
    ]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda value: value != 0, "holds bool values, and what belongs to it floating-point ones"),
        (lambda value: value.round().to(torch.int64), "holds int64 values, and what belongs to it"),
        (lambda value: value[..., :-1], "do not fit together: fetch the file again."),
    ],
)
def test_a_part_of_qkv_of_another_kind(tmp_path, change, says):
    """Joining would make floating-point numbers of it, and nothing would be seen any more."""
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": DEPTH, "num_attention_heads": 4, "intermediate_size": 64}
    config = transformers.ViTConfig(**sizes, image_size=32, patch_size=8)
    state = transformers.ViTModel(config, add_pooling_layer=False).state_dict()
    (name,) = [key for key in state if re.fullmatch(r".*\b1\..*key\.weight|.*\b1\..*k_proj\.weight", key)]
    path = save_torch({**state, name: change(state[name]).contiguous()}, tmp_path / "vit.pth")
    message = refused(mm_vit(), path)
    assert name in message
    assert says in message


@pytest.mark.parametrize("norm", ["norm", "layers.1.downsample.reduction"])
def test_missing_keys_of_swin(tmp_path, norm):
    state = {key: value for key, value in timm_swin().state_dict().items() if not key.startswith(f"{norm}.")}
    name = {"norm": "norm2", "layers.1.downsample.reduction": "stages.0.downsample.reduction"}[norm]
    assert f"lacks {name}.weight" in refused(mm_swin(), save_torch(state, tmp_path / "swin.pth"))


def test_wrong_shapes(tmp_path):
    path = save_npz(timm_vit(), tmp_path / "vit.npz")
    message = refused(mm_vit(patch_size=4), path)
    assert f"1 of {4 + 12 * DEPTH + 2} tensors have the wrong shape, first embedding/kernel" in message
    assert "(32, 3, 8, 8)" in message
    assert "patch_embed.projection.weight is (32, 3, 4, 4)" in message
    refused(mm_vit(patch_size=4), path, strict=False)
    arch = {"embed_dims": 16, "depths": [2, 2, 1], "num_heads": [2, 2, 4]}
    message = refused(mm_swin(arch=arch), save_official_swin(timm_swin(), tmp_path / "swin.pth"))
    assert "layers.0.blocks.0.attn.relative_position_bias_table" in message
    assert "(49, 1)" in message
    assert "(49, 2)" in message


def test_position_tables_that_are_not_square(tmp_path):
    state = timm_vit().state_dict()
    state["pos_embed"] = torch.zeros(1, 13, DIM)
    message = refused(mm_vit(), save_torch(state, tmp_path / "vit.pth"))
    assert message.startswith("pos_embed has the shape (1, 13, 32), which is no square grid of patches and 1 more")
    state = timm_swin().state_dict()
    state["layers.0.blocks.0.attn.relative_position_bias_table"] = torch.zeros(35, 1)
    message = refused(mm_swin(), save_torch(state, tmp_path / "swin.pth"))
    assert "(35, 1), and 35 is not the square of an odd number" in message


@pytest.mark.parametrize("shape", [(), (0,), (17, DIM), (1, 17, DIM, 1)])
def test_a_position_table_of_other_dimensions(tmp_path, shape):
    state = {**timm_vit().state_dict(), "pos_embed": torch.zeros(shape)}
    message = refused(mm_vit(), save_torch(state, tmp_path / "vit.pth"))
    assert f"first pos_embed: the file's gives {shape}, the backbone's" in message


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda value: value.to_sparse(), "norm.weight is no dense tensor"),
        (lambda value: value.to("meta"), "norm.weight is no dense tensor"),
        (
            lambda value: value[:1].expand(2**30),
            r"norm.weight of the shape (1073741824,) is larger than what is stored",
        ),
    ],
)
def test_a_tensor_that_is_not_plain(tmp_path, change, says):
    state = timm_vit().state_dict()
    message = refused(
        mm_vit(), save_torch({**state, "norm.weight": change(state["norm.weight"])}, tmp_path / "vit.pth")
    )
    assert message == f"{says}: save the model's state_dict() anew."


def test_prefix_without_keys(tmp_path):
    path = save_torch(timm_vit().state_dict(), tmp_path / "vit.pth")
    message = refused(mm_vit(), path, prefix="encoder")
    assert message.startswith("no key begins with the prefix 'encoder.'; the keys' first components: blocks, cls_token")


def test_adapter_parameters_are_not_asked_for_and_not_loaded(tmp_path):
    path = save_npz(timm_vit(), tmp_path / "vit.npz")
    backbone = mm_vit()
    for layer in backbone.layers:
        layer.add_module("peft", nn.ModuleDict({"lora": nn.Linear(DIM, 2)}))
    start = backbone.layers[0].peft["lora"].weight.clone()
    report = load_pretrained(backbone, path)
    assert report.missing == []
    assert not any("peft" in key for key in report.loaded)
    with torch.no_grad():
        saved = {key: value + 1 for key, value in backbone.state_dict().items()}
    report = load_pretrained(backbone, save_torch(saved, tmp_path / "adapted.pth"))
    assert report.left_out["layers.0.peft.lora.weight"] == "adapter parameter; load it with vpeft.load_adapter"
    assert torch.equal(backbone.layers[0].peft["lora"].weight, start)
    assert torch.equal(backbone.pos_embed, saved["pos_embed"])
