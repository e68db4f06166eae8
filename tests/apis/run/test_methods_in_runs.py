"""What some methods need of a run: a selection from the data, losses, a head of another width."""

import logging

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from test_run import config

from vpeft.apis.run.test import test as run_test
from vpeft.apis.run.train import train
from vpeft.core.adaptation.find import find_adaptation
from vpeft.registry import HOOKS


def indices(state):
    return {k: v for k, v in state.items() if ".index" in k}


@pytest.mark.parametrize("name", ["sct_nano_vit", "gps_nano_swin"])
def test_a_run_selects_once_and_a_resumed_run_does_not_again(name, tmp_path, caplog):
    runner = train(config(name, tmp_path))
    assert not find_adaptation(runner.model).waits_for_selection
    selected = indices(runner.model.state_dict())
    placeholder = [torch.equal(v, torch.arange(v.shape[-1]).expand_as(v)) for v in selected.values()]
    assert not all(placeholder)
    stored = indices(CheckpointLoader.load_checkpoint(str(tmp_path / "epoch_1.pth"), "cpu")["state_dict"])
    assert stored.keys() == selected.keys()
    assert all(torch.equal(v, selected[k]) for k, v in stored.items())

    (tmp_path / "epoch_2.pth").unlink()
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "epoch_1.pth"))
    with caplog.at_level(logging.INFO):
        resumed = train(config(name, tmp_path, resume=True, log_level="INFO"))
    assert "selecting from the training data" not in caplog.text
    a, b = runner.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(v, b[k]) for k, v in a.items())
    result = run_test(config(name, tmp_path), str(tmp_path / "adapter.safetensors"))
    assert result["parameters"]["trainable_without_head"] > 0


def test_a_list_of_methods_is_one_run_and_one_adapter(tmp_path):
    both = [{"type": "LoRA", "rank": 4}, {"type": "VPTDeep", "prompt_length": 2}]
    cfg = config("lora_nano_vit", tmp_path, **{"model.backbone.method": both})
    runner = train(cfg)
    report = run_test(config("lora_nano_vit", tmp_path, **{"model.backbone.method": both}), f"{tmp_path}/epoch_2.pth")
    assert [m["type"] for m in report["methods"]] == ["LoRA", "VPTDeep"]
    assert list(find_adaptation(runner.model).methods) == ["lora", "vptdeep"]
    assert report["parameters"]["trainable_without_head"] == 6 * (4 * 64 * 4 + 2 * 64)


@HOOKS.register_module()
class KeepLossesHook(Hook):
    """Keeps the names of every iteration's losses."""

    seen: list = []

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self.seen.append(set(outputs))


def test_the_losses_of_dyt_reach_the_log(tmp_path):
    cfg = config("dyt_nano_vit", tmp_path)
    cfg.custom_hooks.append({"type": "vpeft.KeepLossesHook"})
    KeepLossesHook.seen.clear()
    train(cfg)
    assert KeepLossesHook.seen
    assert all(names >= {"loss", "loss_complete", "loss_rate", "loss_divergence"} for names in KeepLossesHook.seen)


def test_a_resumed_run_of_adalora_goes_on_where_it_was(tmp_path):
    """The ranks that stay, and the means by which they are chosen, which no adapter holds."""
    runner = train(config("adalora_nano_vit", tmp_path))
    kept = [value for key, value in runner.model.state_dict().items() if ".kept_" in key]
    method = find_adaptation(runner.model).methods["adalora"]
    assert sum(int(one.sum()) for one in kept) == method.target_rank * len(kept) < method.rank * len(kept)
    zeros = [int((p == 0).sum()) for key, p in runner.model.named_parameters() if ".values." in key]
    assert sum(zeros) == (method.rank - method.target_rank) * len(kept)

    (tmp_path / "epoch_2.pth").unlink()
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "epoch_1.pth"))
    resumed = train(config("adalora_nano_vit", tmp_path, resume=True))
    a, b = dict(runner.model.named_buffers()), dict(resumed.model.named_buffers())
    assert sum("_importance_" in key and bool(value.any()) for key, value in a.items()) == 3 * len(kept)
    for state, again in ((a, b), (runner.model.state_dict(), resumed.model.state_dict())):
        assert all(torch.equal(value, again[key]) for key, value in state.items())
    result = run_test(config("adalora_nano_vit", tmp_path), str(tmp_path / "adapter.safetensors"))
    assert result["parameters"]["trainable_without_head"] > 0


def test_hst_trains_a_head_of_its_own_width(tmp_path):
    runner = train(config("hst_nano_vit", tmp_path))
    assert runner.model.head.fc.in_features == 72
    result = run_test(config("hst_nano_vit", tmp_path), str(tmp_path / "adapter.safetensors"))
    assert result["metrics"]["accuracy/top1"] > 15


def test_noise_and_few_bits_resume_as_the_whole_run(tmp_path):
    """The scores that the fast form compares with travel in the checkpoint; the adapter file is packed."""
    method = {"type": "LoRA", "rank": 4, "bits": 1, "consistency": {"sigma": 0.6, "weight": 0.1, "kind": "fast"}}
    options = {"model.backbone.method": method}
    runner = train(config("lora_nano_vit", tmp_path, **options))
    kept = CheckpointLoader.load_checkpoint(str(tmp_path / "epoch_1.pth"), "cpu")["consistency"]
    assert len(kept["keys"]) == len(runner.train_dataloader.dataset) == len(kept["scores"])
    (tmp_path / "epoch_2.pth").unlink()
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "epoch_1.pth"))
    resumed = train(config("lora_nano_vit", tmp_path, resume=True, **options))
    a, b = runner.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(v, b[k]) for k, v in a.items())
    result = run_test(config("lora_nano_vit", tmp_path, **options), str(tmp_path / "adapter.safetensors"))
    assert result["parameters"]["stored_bytes"] == 6 * 4 * (4 * 64 // 8 + 2 * 4)
    assert result["main_metric"]["value"] == runner.test()["accuracy/top1"] / 100
