"""Every entry point that takes a file, given files that try to run code: one line, and no code was run."""

import shutil

import pytest
import torch
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import _load_checkpoint_with_prefix
from mmpretrain import get_model
from support.evil import evil_files
from support.runs import CONFIGS, write_run

import vpeft
from vpeft.apis.config.load import load_config
from vpeft.apis.export.merged import export_merged
from vpeft.apis.run.prepare import prepare
from vpeft.apis.run.test import test as run_test
from vpeft.apis.run.train import train
from vpeft.compat.torch_load import ALLOWED
from vpeft.core.backbones.weights.load import load_pretrained
from vpeft.core.models.build import build_model
from vpeft.core.trained.run import open_run
from vpeft.extension.features.features import run_features
from vpeft.extension.interpolation.curve import start_head, wise_curve

#: One of each kind; the whole list goes through the readers in tests/compat/test_torch_load.py.
PAYLOADS = [
    "exec as __setstate__ of a HistoryBuffer (archive)",
    "exec as __setstate__ of a HistoryBuffer (bare)",
    "os.system, protocol 2 (archive)",
    "eval, protocol 4 (bare)",
    "torch's old format",
    "tar",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("evil") / "run")


def config(folder, resume=False, **options):
    cfg = load_config(CONFIGS / "mini/lora_nano_vit.py", "digits", {"log_level": "WARNING", **options})
    return prepare(cfg, str(folder), resume=resume)


def opened(run, folder, file):
    """A run whose only weights are the file."""
    shutil.copytree(run, folder)
    (folder / "adapter.safetensors").unlink()
    shutil.copy(file, folder / "epoch_1.pth")
    return folder


def as_adapter(run, folder, file):
    shutil.copytree(run, folder)
    shutil.copy(file, folder / "adapter.safetensors")
    return folder


def resumed(run, folder, file):
    folder.mkdir()
    shutil.copy(file, folder / "epoch_1.pth")
    (folder / "last_checkpoint").write_text(str(folder / "epoch_1.pth"))
    train(config(folder, resume=True))


def backbone():
    return build_model(config("unused")).backbone


def model(run):
    return open_run(run).model()


#: What is called with a run's folder, a new folder, and the file.
ENTRIES = {
    "tools/test.py": lambda run, folder, file: run_test(config(folder), str(file)),
    "train --resume": resumed,
    "train --resume FILE": lambda run, folder, file: train(config(folder, resume=str(file))),
    "load_from": lambda run, folder, file: train(config(folder, load_from=str(file))),
    "init_cfg": lambda run, folder, file: build_model(
        config(folder, **{"model.backbone.init_cfg.checkpoint": str(file)})
    ).init_weights(),
    "load_pretrained": lambda run, folder, file: load_pretrained(backbone(), str(file)),
    "merge": lambda run, folder, file: export_merged(config(folder), str(file), str(folder / "out.pth")),
    "wise": lambda run, folder, file: wise_curve(open_run(opened(run, folder, file)), []),
    "wise --head": lambda run, folder, file: start_head(opened(run, folder, file), open_run(run)),
    "tsne": lambda run, folder, file: run_features(open_run(opened(run, folder, file)), cache=False),
    "open_run": lambda run, folder, file: model(opened(run, folder, file)),
    "open_run, as an adapter file": lambda run, folder, file: model(as_adapter(run, folder, file)),
    "vpeft.load_adapter": lambda run, folder, file: vpeft.load_adapter(backbone(), file),
    "mmpretrain.get_model": lambda run, folder, file: get_model(config(folder), pretrained=str(file)),
    "mmengine.load_checkpoint": lambda run, folder, file: load_checkpoint(backbone(), str(file)),
    "mmengine, by prefix": lambda run, folder, file: _load_checkpoint_with_prefix("backbone.", str(file), "cpu"),
}
#: They build a Runner.
SLOW = {"tools/test.py", "train --resume", "train --resume FILE", "load_from"}


@pytest.mark.parametrize("entry", ENTRIES)
def test_no_entry_point_runs_code(run, tmp_path, entry):
    canary = tmp_path / "ran"
    files = evil_files(canary, tmp_path)
    file = tmp_path / "evil.pth"
    for number, name in enumerate(PAYLOADS[:2] if entry in SLOW else PAYLOADS):
        file.write_bytes(files[name])
        with pytest.raises(vpeft.UserError) as error:
            ENTRIES[entry](run, tmp_path / str(number), file)
        assert len(str(error.value).splitlines()) == 1
        assert str(tmp_path) in str(error.value)  # it is of this file that something is said
        assert not canary.exists(), name
    assert not set(torch.serialization.get_safe_globals()) & set(ALLOWED)
