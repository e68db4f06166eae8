"""Going on with a run: from which checkpoint, with which settings, and what signals leave behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from safetensors.torch import load_file

from vpeft.apis.commands.stopping import Stopped
from vpeft.apis.config.load import load_config
from vpeft.apis.config.text import settings_of
from vpeft.apis.export.adapter import export_adapter
from vpeft.apis.run import resume
from vpeft.apis.run.prepare import prepare
from vpeft.apis.run.train import train
from vpeft.errors import UserError

ROOT = Path(__file__).parents[3]
FAST = {
    "train_cfg.max_epochs": 2,
    "default_hooks.checkpoint.interval": 1,
    "default_hooks.checkpoint.max_keep_ckpts": 9,
    "train_dataloader.batch_size": 250,
    "train_split": "train800",
    "log_level": "WARNING",
}
RATE = load_config(ROOT / "configs/mini/lora_nano_vit.py").optim_wrapper.optimizer.lr


def config(work_dir, resume=False, name="lora_nano_vit", task="digits", seed=0, **options):
    cfg = load_config(ROOT / f"configs/mini/{name}.py", task, {**FAST, **options})
    return prepare(cfg, str(work_dir), seed=seed, resume=resume)


def learned(work_dir, name="adapter.safetensors"):
    return load_file(Path(work_dir) / name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of two epochs."""
    work_dir = tmp_path_factory.mktemp("whole")
    train(config(work_dir))
    return work_dir


@pytest.fixture
def lines(monkeypatch):
    """What is said while resuming."""
    said = []
    monkeypatch.setattr("vpeft.apis.run.resume.print_log", lambda text, *args, **kwargs: said.append(text))
    return said


def test_a_copied_folder_goes_on_from_its_own_checkpoint(whole, tmp_path, lines):
    shutil.copytree(whole, tmp_path / "copy")
    (tmp_path / "copy" / "epoch_2.pth").unlink()
    cfg = config(tmp_path / "copy", resume=True)
    assert cfg.load_from == str(tmp_path / "copy" / "epoch_1.pth")
    assert lines == []  # nothing differs
    train(cfg)
    ours, theirs = learned(tmp_path / "copy"), learned(whole)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_truncated_checkpoint_is_named_and_the_one_before_taken(whole, tmp_path, lines):
    shutil.copytree(whole, tmp_path / "copy")
    file = tmp_path / "copy" / "epoch_2.pth"
    file.write_bytes(file.read_bytes()[:-5000])
    assert config(tmp_path / "copy", resume=True).load_from.endswith("copy/epoch_1.pth")
    assert len(lines) == 1
    assert lines[0].startswith("--resume goes on from epoch_1.pth, since")
    assert "epoch_2.pth is truncated" in lines[0]
    (tmp_path / "copy" / "epoch_1.pth").write_bytes(b"")
    with pytest.raises(UserError, match="no checkpoint can be read"):
        config(tmp_path / "copy", resume=True)


def test_from_where_the_run_was_started_gives_way_to_where_it_is(whole, lines):
    cfg = config(whole, resume=True, load_from="pretrained.pth")  # as a requeued job asks for it each time
    assert cfg.load_from == f"{whole}/epoch_2.pth"
    assert lines == [f"--resume: load_from='pretrained.pth' was for the start: the run goes on from {cfg.load_from}."]


def test_nothing_to_resume_is_said(tmp_path, lines):
    cfg = config(tmp_path / "new", resume=True)
    assert not cfg.resume
    assert lines == [f"--resume: {tmp_path}/new holds no checkpoint yet: the run starts anew."]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"optim_wrapper.optimizer.lr": 0.5}, f"optim_wrapper.optimizer.lr=0.5 is not followed: .* its own {RATE}"),
        ({"seed": 3}, "randomness.seed=3 is not followed: the run goes on with its own 0"),
        ({"train_cfg.max_epochs": 4}, "train_cfg.max_epochs=4 is followed from here on: before it was 2"),
        ({"param_scheduler.1.end": 40}, "param_scheduler.1.end=40 is not followed: the run goes on with its own 20"),
        ({"train_dataloader.batch_size": 100}, "train_dataloader.batch_size=100 is followed from here on"),
    ],
)
def test_settings_that_differ_are_named(whole, options, said, lines):
    import re

    config(whole, resume=True, **options)
    assert len(lines) == 1
    assert re.search(said, lines[0])


def test_the_config_says_what_is_so(whole, tmp_path, lines):
    shutil.copytree(whole, tmp_path / "run")
    options = {"optim_wrapper.optimizer.lr": 0.5, "param_scheduler.1.end": 40, "train_cfg.max_epochs": 3}
    cfg = config(tmp_path / "run", resume=True, seed=4, **options)
    assert (cfg.optim_wrapper.optimizer.lr, cfg.param_scheduler[1].end, cfg.randomness.seed) == (RATE, 20, 0)
    runner = train(cfg)
    assert runner.seed == 0
    record = json.loads((tmp_path / "run" / "config_origin.json").read_text())
    assert record["changed"] == ["train_cfg.max_epochs"]
    assert load_config(tmp_path / "run" / "lora_nano_vit.py").optim_wrapper.optimizer.lr == RATE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "photos"}, "is of another run: its .*num_classes is 10, this config's 8"),
        ({"model.backbone.method.rank": 4}, r"was trained with .*'rank': 8.*this config has .*'rank': 4"),
        ({"name": "ssf_nano_vit"}, "was trained with .*LoRA.*this config has .*SSF"),
        ({"optim_wrapper.optimizer.type": "SGD"}, "its optim_wrapper.optimizer.type is 'AdamW', this config's 'SGD'"),
    ],
)
def test_another_run_is_not_resumed(whole, options, message):
    with pytest.raises(UserError, match=message) as error:
        config(whole, resume=True, **options)
    assert "\n" not in str(error.value)


def test_a_task_with_as_many_classes_is_another_all_the_same(whole, monkeypatch):
    monkeypatch.setattr(resume, "settings_of", lambda text: {**settings_of(text), "task": "tissue"})
    with pytest.raises(UserError, match="is of another run: its task is 'tissue', this config's 'digits'"):
        config(whole, resume=True)


def test_settings_are_read_without_being_run(tmp_path):
    text = f"a = dict(b=[1, -2], c=(dict(type='X'),))\nd = open({str(tmp_path / 'ran')!r}, 'w')\ne = 1e-3\nimport os\n"
    read = settings_of(text)
    assert read["a"] == {"b": [1, -2], "c": [{"type": "X"}]}
    assert read["e"] == 0.001
    assert read["d"].startswith("open(")
    assert not (tmp_path / "ran").exists()
    assert settings_of("(" * 5000) == settings_of("a = ") == {}


def test_any_checkpoint_becomes_an_adapter_file(whole, tmp_path):
    cfg = config(tmp_path)
    for name in ("epoch_1", "epoch_2"):
        assert export_adapter(cfg, str(whole / f"{name}.pth"), str(tmp_path / f"{name}.safetensors")) > 40_000
        state = CheckpointLoader.load_checkpoint(str(whole / f"{name}.pth"), "cpu")["state_dict"]
        adapter = learned(tmp_path, f"{name}.safetensors")
        assert adapter.keys() == state.keys()
        assert all(torch.equal(adapter[key], state[key]) for key in state)
    assert (tmp_path / "epoch_2.safetensors").read_bytes() == (whole / "adapter.safetensors").read_bytes()
    with pytest.raises(UserError, match=r"out\.pth: an adapter file's name ends in \.safetensors"):
        export_adapter(cfg, str(whole / "epoch_1.pth"), str(tmp_path / "out.pth"))


def test_a_second_run_does_not_mix_with_the_first(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    train(config(tmp_path / "run", seed=1, **{"train_cfg.max_epochs": 1}))
    assert sorted(path.name for path in (tmp_path / "run").glob("*.pth")) == ["epoch_1.pth"]
    aside = tmp_path / "run" / "earlier_1"
    assert all(torch.equal(learned(aside)[key], value) for key, value in learned(whole).items())
    assert (aside / "lora_nano_vit.py").is_file()
    assert (tmp_path / "run" / "config_origin.json").is_file()


def test_the_configs_own_dump_forgets_from_where_it_was_resumed(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    train(config(tmp_path / "run", resume=True, **{"train_cfg.max_epochs": 3}))
    dumped = load_config(tmp_path / "run" / "lora_nano_vit.py")
    assert (dumped.resume, dumped.load_from) == (False, None)
    assert dumped.train_cfg.max_epochs == 3


def test_averages_and_the_best_checkpoint_have_adapter_files(tmp_path):
    options = {"default_hooks.checkpoint.save_best": "accuracy/top1", "train_cfg.val_interval": 1}
    cfg = config(tmp_path, **options)
    cfg.custom_hooks = [{"type": "vpeft.PEFTHook"}, {"type": "EMAHook", "momentum": 0.01}]
    runner = train(cfg)
    stored = {name: CheckpointLoader.load_checkpoint(str(tmp_path / name), "cpu") for name in ("epoch_2.pth",)}
    (best,) = tmp_path.glob("best_*.pth")
    best = CheckpointLoader.load_checkpoint(str(best), "cpu")["state_dict"]
    last = stored["epoch_2.pth"]["state_dict"]
    for adapter, state in ((learned(tmp_path), last), (learned(tmp_path, "adapter_best.safetensors"), best)):
        assert adapter.keys() == state.keys()
        assert all(torch.equal(adapter[key], state[key]) for key in adapter)
    own = runner.model.state_dict()
    assert not all(torch.equal(own[key], last[key]) for key in last)  # the model itself is not averaged


def test_a_copied_run_keeps_its_hands_off_the_other_ones_best_checkpoint(tmp_path):
    options = {"default_hooks.checkpoint.save_best": "loss", "default_hooks.checkpoint.rule": "less"}
    cfg = config(tmp_path / "first", **options, **{"train_cfg.val_interval": 1, "train_cfg.max_epochs": 1})
    cfg.default_hooks.checkpoint.update(save_best="accuracy/top1", rule="less")  # the next one is likely better
    train(cfg)
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    cfg = config(tmp_path / "second", resume=True, **options, **{"train_cfg.val_interval": 1})
    cfg.default_hooks.checkpoint.update(save_best="accuracy/top1", rule="greater")
    train(cfg)
    assert [path.name for path in (tmp_path / "first").glob("best_*.pth")] == ["best_accuracy_top1_epoch_1.pth"]
    assert [path.name for path in (tmp_path / "second").glob("best_*.pth")] == ["best_accuracy_top1_epoch_2.pth"]


@pytest.mark.slow
def test_sigterm_ends_a_run_with_its_last_checkpoint_named(tmp_path):
    command = [sys.executable, "tools/train.py", "configs/mini/lora_nano_vit.py", "--work-dir", str(tmp_path)]
    command += ["--cfg-options", "train_cfg.max_epochs=500", "default_hooks.checkpoint.interval=1"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 300
    while not (tmp_path / "epoch_2.pth").exists():
        assert process.poll() is None
        assert time.time() < deadline
        time.sleep(0.05)
    second = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert "is in use: another run trains there" in second.stderr
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1].strip().splitlines()[-1]
    last = (tmp_path / "last_checkpoint").read_text()
    assert said == f"stopped by SIGTERM; the last checkpoint is {last}: --resume goes on from it."
    assert process.returncode == 143
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_signal_that_a_library_turned_into_an_error_names_the_checkpoint(tmp_path, monkeypatch):
    cfg = config(tmp_path)

    def swallowed(self):
        (tmp_path / "epoch_3.pth").touch()
        try:
            raise Stopped("stopped", 143)
        except KeyboardInterrupt as error:
            raise RuntimeError("the library's own") from error

    monkeypatch.setattr(Runner, "train", swallowed)
    words = r"^stopped by SIGTERM; the last checkpoint is .*epoch_3\.pth: --resume"
    with pytest.raises(Stopped, match=words) as caught:
        train(cfg)
    assert caught.value.status == 143
