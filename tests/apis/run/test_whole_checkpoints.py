"""A run's checkpoint is whole or refused: by test, load_from, resume, merge, and what opens runs."""

import copy
import shutil

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader
from safetensors.torch import load_file
from support.runs import CONFIGS

import vpeft
from vpeft.apis.config.load import load_config
from vpeft.apis.export.merged import export_merged
from vpeft.apis.run.prepare import prepare
from vpeft.apis.run.test import test as run_test
from vpeft.apis.run.train import train
from vpeft.core.adaptation.storing.adapter_file import read_metadata
from vpeft.core.adaptation.storing.checkpoint import seal_checkpoint
from vpeft.core.adaptation.storing.format import content_sum
from vpeft.core.trained.load import load_trained
from vpeft.core.trained.run import open_run

FAST = {"train_cfg.max_epochs": 1, "default_hooks.checkpoint.interval": 1, "default_hooks.logger.interval": 1}
FAST |= {"train_dataloader.batch_size": 250, "log_level": "WARNING"}


def config(folder, name="lora_nano_vit", task="digits", resume=False, **options):
    cfg = load_config(CONFIGS / f"mini/{name}.py", task, {**FAST, **options})
    return prepare(cfg, str(folder), seed=0, resume=resume)


class Keep(Hook):
    """Keeps what is about to be written."""

    priority = "LOWEST"

    def before_save_checkpoint(self, runner, checkpoint) -> None:
        if "optimizer" in checkpoint:
            runner.kept = copy.deepcopy(checkpoint)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained run's folder, and what its runner has handed to torch.save."""
    folder = tmp_path_factory.mktemp("whole")
    cfg = config(folder)
    cfg.custom_hooks = [*cfg.get("custom_hooks", []), {"type": Keep}]
    runner = train(cfg)
    return folder, runner.kept


def load(path):
    return CheckpointLoader.load_checkpoint(str(path), "cpu")


def refused(call, *messages):
    with pytest.raises(vpeft.UserError) as error:
        call()
    assert len(str(error.value).splitlines()) == 1
    for message in messages:
        assert message in str(error.value)


def test_what_is_written_comes_back_whole(run):
    """Every number of it: weights, optimiser, schedules, counters, logged scalars."""
    folder, kept = run
    stored = load(folder / "epoch_1.pth")
    assert stored.keys() == kept.keys() >= {"meta", "state_dict", "message_hub", "optimizer", "param_schedulers"}
    assert content_sum(stored) == content_sum(kept)
    assert any(isinstance(v, HistoryBuffer) and len(v.data[0]) for v in stored["message_hub"]["log_scalars"].values())
    peft = stored["peft"]
    assert (peft["format"], peft["task"]) == ("vpeft-adapter-2", "digits")
    assert set(peft["tensors"]) == set(stored["state_dict"]) == set(load_file(folder / "adapter.safetensors"))
    metadata = read_metadata(folder / "adapter.safetensors")
    assert (metadata["task"], metadata["classes"]) == ("digits", peft["classes"])


def tampered():
    """What may happen to a checkpoint, by name, and what is said of it."""

    def weights(change):
        return lambda c: change(c["state_dict"], sorted(k for k in c["state_dict"] if ".peft." in k))

    def flip(tensor):
        tensor.view(torch.int32).view(-1)[0] ^= 1

    return {
        "missing": (weights(lambda s, k: s.pop(k[0])), "is missing"),
        "renamed": (weights(lambda s, k: s.update({"backbone.x": s.pop(k[0])})), "backbone.x was added"),
        "shape": (weights(lambda s, k: s.update({k[0]: s[k[0]][:1]})), "and was float32"),
        "integers": (weights(lambda s, k: s.update({k[0]: s[k[0]].long()})), "is int64"),
        "nothing": (weights(lambda s, k: s.clear()), "is missing"),
        "one bit": (weights(lambda s, k: flip(s[k[0]])), "SHA-256"),
        "head": (
            weights(lambda s, k: flip(s["head.fc.weight" if "head.fc.weight" in s else "head.layers.fc.weight"])),
            "",
        ),
        "no weights": (lambda c: c.pop("state_dict"), "in the place of weights by name"),
        "weights are a list": (lambda c: c.update(state_dict=[1]), "in the place of weights by name"),
        "an entry is no tensor": (lambda c: c["state_dict"].update({"a": 1.0}), "is a float and no tensor"),
        "optimiser": (lambda c: flip(next(iter(c["optimizer"]["state"].values()))["exp_avg"]), "SHA-256"),
        "rate": (lambda c: c["optimizer"]["param_groups"][0].update(lr=1.0), "SHA-256"),
        "schedule": (lambda c: c["param_schedulers"][0].update(last_step=7), "SHA-256"),
        "counter": (lambda c: c["meta"].update(iter=3), "SHA-256"),
        "scalars": (lambda c: c["message_hub"]["log_scalars"].clear(), "SHA-256"),
        "other task": (lambda c: c["peft"].update(task="faces"), "SHA-256"),
        "other method": (lambda c: c["peft"]["methods"][0].update(rank=3), "SHA-256"),
        "newer": (lambda c: c["peft"].update(format="vpeft-adapter-9"), "vpeft-adapter-9, and this vpeft reads up to"),
        "no description": (lambda c: c.update(peft=None), "describes no vpeft adapter"),
        "description of text": (lambda c: c.update(peft="{}"), "describes no vpeft adapter"),
        "no sum": (lambda c: c["peft"].pop("sha256"), "describes no vpeft adapter"),
        "description left out": (lambda c: c.pop("peft"), "holds PEFT parameters but not which method"),
    }


@pytest.mark.parametrize("name", tampered())
def test_a_changed_checkpoint_is_refused(run, tmp_path, name):
    change, message = tampered()[name]
    checkpoint = torch.load(run[0] / "epoch_1.pth", weights_only=False)
    change(checkpoint)
    torch.save(checkpoint, tmp_path / "changed.pth")
    refused(lambda: load_trained(config(tmp_path), str(tmp_path / "changed.pth")), message, "changed.pth")


def opened(run, folder, file):
    folder.mkdir()
    config(folder).dump(str(folder / "lora_nano_vit.py"))
    shutil.copy(file, folder / "epoch_1.pth")
    return open_run(folder).model()


ENTRIES = {
    "test": lambda run, folder, file: run_test(config(folder), str(file)),
    "resume": lambda run, folder, file: train(config(folder, resume=str(file))),
    "load_from": lambda run, folder, file: train(config(folder, load_from=str(file))),
    "merge": lambda run, folder, file: export_merged(config(folder), str(file), str(folder / "out.pth")),
    "open_run": opened,
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_by_every_entry_point(run, tmp_path, entry):
    """Changed under a right sum of the archive; with a sum that is right but NaN in it; a bit of the file itself."""
    checkpoint = torch.load(run[0] / "epoch_1.pth", weights_only=False)
    key = next(k for k in checkpoint["state_dict"] if ".peft." in k)
    checkpoint["state_dict"][key].view(torch.int32).view(-1)[0] ^= 1
    torch.save(checkpoint, tmp_path / "bit.pth")
    checkpoint["state_dict"][key].view(-1)[0] = float("nan")
    seal_checkpoint(checkpoint, checkpoint["peft"]["classes"], "digits")
    torch.save(checkpoint, tmp_path / "nan.pth")
    data = bytearray((run[0] / "epoch_1.pth").read_bytes())
    data[len(data) // 2] ^= 4
    (tmp_path / "file.pth").write_bytes(data)
    for name, message in {
        "bit": "SHA-256",
        "nan": f"{key} holds NaN",
        "file": "its bytes differ from its SHA-256",
    }.items():
        refused(lambda name=name: ENTRIES[entry](run[0], tmp_path / name, tmp_path / f"{name}.pth"), message)


def test_another_task_and_other_classes(run, tmp_path):
    for file in (run[0] / "epoch_1.pth", run[0] / "adapter.safetensors"):
        message = "trained on the task 'digits', and this is 'textures'"
        refused(lambda file=file: load_trained(config(tmp_path, task="textures"), str(file)), message)
        refused(lambda file=file: run_test(config(tmp_path, task="textures"), str(file)), message)
    checkpoint = load(run[0] / "epoch_1.pth")
    names = [f"class {i}" for i in range(10)]
    seal_checkpoint(checkpoint, names, "digits")
    torch.save(checkpoint, tmp_path / "named.pth")
    assert load(tmp_path / "named.pth")["peft"]["classes"] == names
    cfg = config(tmp_path)
    cfg.test_dataloader.dataset.metainfo = {"classes": names[::-1]}
    message = "number 0 is 'class 0' there, 'class 9' in these data"
    refused(lambda: run_test(cfg, str(tmp_path / "named.pth")), message)
    (tmp_path / "opened").mkdir()
    cfg.dump(str(tmp_path / "opened" / "lora_nano_vit.py"))
    shutil.copy(tmp_path / "named.pth", tmp_path / "opened" / "epoch_1.pth")
    refused(lambda: open_run(tmp_path / "opened").dataset(), message)


def test_weights_alone_are_not_resumed_from(run, tmp_path):
    checkpoint = load(run[0] / "epoch_1.pth")
    torch.save({"state_dict": checkpoint["state_dict"], "meta": {}}, tmp_path / "weights.pth")
    for file in (tmp_path / "weights.pth", run[0] / "adapter.safetensors"):
        refused(lambda file=file: train(config(tmp_path / "new", resume=str(file))), "no state of a run to resume")


class Seen(Exception):
    pass


class Look(Hook):
    """Ends a run where it starts, with the weights that it starts from."""

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        raise Seen({key: value.clone() for key, value in runner.model.state_dict().items()})


def test_an_adapter_file_is_loaded_from(run, tmp_path):
    """As start of another run: what it starts with is what the file holds."""
    cfg = config(tmp_path, load_from=str(run[0] / "adapter.safetensors"))
    cfg.custom_hooks = [*cfg.get("custom_hooks", []), {"type": Look}]
    with pytest.raises(Seen) as seen:
        train(cfg)
    stored = load_file(run[0] / "adapter.safetensors")
    assert all(torch.equal(seen.value.args[0][key], value) for key, value in stored.items())


def test_checkpoints_of_the_first_format_are_read(run, tmp_path):
    checkpoint = load(run[0] / "epoch_1.pth")
    for key in ("task", "classes", "tensors", "sha256"):
        del checkpoint["peft"][key]
    checkpoint["peft"]["format"] = "vpeft-adapter-1"
    torch.save(checkpoint, tmp_path / "old.pth")
    state = load_trained(config(tmp_path), str(tmp_path / "old.pth")).state_dict()
    assert all(torch.equal(state[key], value) for key, value in checkpoint["state_dict"].items())
    key = next(k for k in checkpoint["state_dict"] if ".peft." in k)
    checkpoint["state_dict"].pop(key)
    torch.save(checkpoint, tmp_path / "old.pth")
    refused(lambda: load_trained(config(tmp_path), str(tmp_path / "old.pth")), "1 keys missing", key)


def test_the_sum_sees_every_kind_of_value():
    base = {"a": torch.zeros(2), "b": [1, 2.0, None, "x", b"y", True], "c": np.arange(3), "d": HistoryBuffer([1], [1])}
    sums = {content_sum(base), content_sum({**base, "e": 0})}
    for key, value in [
        ("a", torch.zeros(2, 1)),
        ("a", torch.zeros(2).half()),
        ("a", -torch.zeros(2)),
        ("b", [1.0, 2.0, None, "x", b"y", True]),
        ("b", [1, 2.0, None, "x", "y", True]),
        ("b", [1, 2.0, None, "x", b"y", 1]),
        ("c", np.arange(3.0)),
        ("d", HistoryBuffer([1], [2])),
    ]:
        sums.add(content_sum({**base, key: value}))
    assert len(sums) == 10
    assert content_sum(dict(reversed(base.items()))) == content_sum(base)
