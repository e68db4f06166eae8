"""Adapter files: what they hold, and everything that they refuse."""

import copy
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from support.hosts import build, perturb, tokens

import vpeft
from vpeft.core.adaptation.find import get_adaptation
from vpeft.files import write_atomically

VIT, SWIN = "mmpretrain.VisionTransformer", "mmpretrain.SwinTransformer"
TIMM = "timm.VisionTransformer"


@pytest.fixture
def file(tmp_path):
    """An adapter of the test's ViT."""
    model = vpeft.attach(build(VIT), {"type": "LoRA", "rank": 4})
    perturb(model)
    return vpeft.save_adapter(model, tmp_path / "lora.safetensors")


def refused(model, file, *messages) -> None:
    """Loading ends in a message, and the model is as before."""
    state, attached = copy.deepcopy(model.state_dict()), get_adaptation(model)
    with pytest.raises(vpeft.UserError) as error:
        vpeft.load_adapter(model, file)
    for message in (*messages, str(file)):
        assert message in str(error.value)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert get_adaptation(model) is attached


def test_what_a_file_says(file):
    with safe_open(file, framework="pt") as opened:
        metadata = json.loads(opened.metadata()["vpeft"])
        keys = list(opened.keys())
    assert metadata["format"] == "vpeft-adapter-1"
    assert metadata["methods"] == [
        {"type": "LoRA", "rank": 4, "alpha": None, "targets": ["q", "v"], "drop": 0.0},
    ]
    assert metadata["host"]["name"] == VIT
    assert len(metadata["fingerprint"]) == 64
    assert all(".peft.lora." in key for key in keys)
    blocks = len({key.split(".")[1] for key in keys})
    assert len(keys) == 4 * blocks


def test_the_fingerprint_is_of_the_base_alone(tmp_path):
    prints = []
    for cfg in ("LoRA", "BitFit", "Full"):
        model = vpeft.attach(build(VIT), cfg)
        perturb(model)
        with safe_open(vpeft.save_adapter(model, tmp_path / cfg), framework="pt") as opened:
            prints.append(json.loads(opened.metadata()["vpeft"])["fingerprint"])
    assert len(set(prints)) == 1


def test_another_host(file):
    refused(build(SWIN), file, "belongs to another host", VIT, SWIN)
    refused(build(TIMM), file, "belongs to another host")


@pytest.mark.parametrize("options", [{"img_size": 48}, {"layer_scale_init_value": 0.1}, {"with_cls_token": False}])
def test_other_shapes(file, options):
    if "with_cls_token" in options:
        options = {**options, "out_type": "avg_featmap"}
    refused(build(VIT, **options), file, "")


def test_other_base_weights(file):
    model = build(VIT)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    refused(model, file, "was trained on other base weights", "fingerprint")


def test_another_method_is_attached(file):
    refused(vpeft.attach(build(VIT), "SSF"), file, "'type': 'SSF'", "is attached: detach it first")


def test_other_hyper_parameters_are_attached(file):
    refused(vpeft.attach(build(VIT), {"type": "LoRA", "rank": 5}), file, "detach it first")


def test_a_base_with_other_buffers_is_another_base(tmp_path):
    """VideoMAE's positions are a buffer, which image weights replace."""
    name = "mmaction.VisionTransformer"
    file = vpeft.save_adapter(vpeft.attach(build(name), "LoRA"), tmp_path / "video.safetensors")
    other = build(name)
    assert "pos_embed" in dict(other.named_buffers())
    other.pos_embed.add_(0.1)
    refused(other, file, "other base")
    vpeft.load_adapter(build(name), file)


def test_truncated(file):
    file.write_bytes(file.read_bytes()[:-100])
    refused(build(VIT), file, "is truncated or no safetensors file")


def test_foreign_files(file, tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    refused(build(VIT), tmp_path / "other.safetensors", "no description of a vpeft adapter")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    refused(build(VIT), tmp_path / "other.pth", "no safetensors file")
    refused(build(VIT), tmp_path / "missing.safetensors", "does not exist")


def test_lacking_and_additional_tensors(file, tmp_path):
    with safe_open(file, framework="pt") as opened:
        metadata, tensors = opened.metadata(), {k: opened.get_tensor(k) for k in opened.keys()}  # noqa: SIM118
    first = sorted(tensors)[0]
    changed = {k: v for k, v in tensors.items() if k != first}
    save_file({**changed, "layers.0.more": torch.zeros(1)}, tmp_path / "changed.safetensors", metadata)
    refused(build(VIT), tmp_path / "changed.safetensors", "1 keys missing", first, "1 unexpected", "layers.0.more")
    save_file({**tensors, first: torch.zeros(3, 3)}, tmp_path / "shape.safetensors", metadata)
    refused(build(VIT), tmp_path / "shape.safetensors", first, "(3, 3)")


def test_saving_while_merged_is_refused(tmp_path):
    model = vpeft.attach(build(VIT), "LoRA")
    perturb(model)
    vpeft.merge(model)
    with pytest.raises(vpeft.UserError, match="unmerge it before saving"):
        vpeft.save_adapter(model, tmp_path / "merged.safetensors")
    assert not (tmp_path / "merged.safetensors").exists()


def test_loading_over_a_merged_adapter_is_refused(file):
    model = vpeft.load_adapter(build(VIT), file)
    vpeft.merge(model)
    refused(model, file, "merged")


def test_onto_the_same_methods(file):
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    one = vpeft.load_adapter(build(VIT), file)
    two = vpeft.attach(build(VIT), {"type": "LoRA", "rank": 4})
    perturb(two, 0.7)
    assert not torch.equal(tokens(one, images), tokens(two, images))
    assert torch.equal(tokens(vpeft.load_adapter(two, file), images), tokens(one, images))


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    from pathlib import Path

    path = write_atomically(tmp_path / "file", b"old")

    def full(self, data):
        with open(self, "wb") as half:
            half.write(data[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(vpeft.UserError, match=r"file could not be written .*No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
