"""Pruning and rewinding: E2VPT."""

import json

import pytest
import torch
import torch.nn.functional as F
from support.hosts import build, perturb

import vpeft
from vpeft.apis.tune.rewind import rewind
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.adaptation.training.selection_data import training_data

HOST = "timm.VisionTransformer"
METHOD = {
    "type": "E2VPT",
    "prompt_length": 4,
    "prefix_length": 2,
    "pieces": 8,
    "prune_tokens": 0.6,
    "prune_pieces": 0.9,
}


def batches(count=3):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 2, 3, 32, 32, generator=generator, dtype=torch.float64)
    return [(one, torch.tensor([number % 2, 1])) for number, one in enumerate(images)]


def pruned(importance):
    model = perturb(vpeft.attach(build(HOST), {**METHOD, "importance": importance})).eval()
    adaptation = get_adaptation(model)
    adaptation.host.method_key = "e2vpt"
    left = adaptation.methods["e2vpt"].pruned(adaptation.host, training_data(model, batches()))
    losses = [F.cross_entropy(model(images), labels) for images, labels in batches()]
    masks = model.peft["e2vpt"]["masks"]
    return left, torch.autograd.grad(sum(losses), [masks.tokens, masks.pieces])


def test_the_least_important_are_pruned():
    """The sizes of the gradients over all batches; of 60 % of four prompts two, of 90 % of eight pieces four."""
    left, (tokens, pieces) = pruned("absolute")
    assert list(left.zero_tokens) == sorted(tokens.abs().argsort()[:2].tolist())
    expected = [8 * i + int(j) for i, row in enumerate(pieces) for j in row.abs().argsort()[:4]]
    assert list(left.zero_pieces) == sorted(expected)


def test_the_authors_code_looks_at_the_sign_and_at_whole_prompts():
    left, (tokens, _) = pruned("official")
    assert list(left.zero_tokens) == sorted(tokens.argsort()[:2].tolist())
    assert list(left.zero_pieces) == [8 * i + j for i in range(4) for j in range(4)]


def test_what_is_pruned_stays_zero_and_untrained():
    options = {**METHOD, "zero_tokens": [1], "zero_pieces": [0, 9]}
    model = vpeft.attach(build(HOST), options)
    masks = model.peft["e2vpt"]["masks"]
    assert not list(masks.parameters())
    assert masks.tokens.tolist() == [1, 0, 1, 1]
    assert masks.pieces.flatten().nonzero().numel() == 4 * 8 - 2
    with pytest.raises(vpeft.UserError, match="zero_tokens and zero_pieces are both given"):
        vpeft.attach(build(HOST), {**METHOD, "zero_tokens": []})
    with pytest.raises(vpeft.UserError, match="must be below 4"):
        vpeft.attach(build(HOST), {**METHOD, "zero_tokens": [4], "zero_pieces": []})


def test_a_run_is_pruned_and_trained_again(tmp_path):
    options = {"train_cfg.max_epochs": 1, "train_dataloader.dataset.indices": 64, "test_dataloader.dataset.indices": 64}
    result = rewind("configs/mini/e2vpt_nano_vit.py", "digits", str(tmp_path), 0, options)
    found = json.loads((tmp_path / "pruned.json").read_text())["methods"][0]
    assert len(found["zero_tokens"]) == 2
    assert len(found["zero_pieces"]) == 5 * 8
    assert result["parameters"]["trainable_without_head"] == 6 * (5 + 5) * 64
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*/adapter.safetensors")}
    assert len(before) == 2
    assert rewind("configs/mini/e2vpt_nano_vit.py", "digits", str(tmp_path), 0, options)["metrics"] == result["metrics"]
    assert before == {file: file.stat().st_mtime_ns for file in before}


def test_what_prunes_nothing_is_refused(tmp_path):
    options = {"train_cfg.max_epochs": 1, "train_dataloader.dataset.indices": 32}
    with pytest.raises(vpeft.UserError, match="LoRA prunes nothing"):
        rewind("configs/mini/lora_nano_vit.py", "digits", str(tmp_path), 0, options)
