"""On which images a search looks, and what a trial is worth. Nothing is trained here."""

import itertools
import json
import random
from pathlib import Path

import pytest
from support.hosts import build
from torch import nn

import vpeft
from vpeft.algorithms.unified.noah_space import Space
from vpeft.apis.config.load import load_config
from vpeft.apis.tune import noah, trial
from vpeft.apis.tune.study import Study
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.contract.subnets import find_space

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _root(monkeypatch):
    monkeypatch.chdir(ROOT)


class _Supernet(nn.Module):
    """A supernet on a tiny host; what a subnet is worth is a formula of its sizes."""

    def __init__(self):
        super().__init__()
        method = {"type": "NOAH", "prompts": 10, "ranks": 10, "widths": 10}
        self.backbone = vpeft.attach(build("mmpretrain.VisionTransformer"), method)

    def sizes(self):
        adaptation = get_adaptation(self.backbone)
        placed = [block.placed(*adaptation.on_host) for block in adaptation.host.blocks]
        return [module.active for own in placed for module in own.values() if hasattr(module, "active")]


def searched(monkeypatch, folder, worth):
    """The fields that the search finds, the splits that it read, and its supernet."""
    cfg = load_config("configs/mini/noah_supernet_nano_vit.py", "digits")
    cfg.noah.update(choices=(2, 10), depths=(1, 2), epochs=2, population=8, parents=2, mutations=3, crossovers=3)
    cfg.noah.pop("limit", None)
    model, read = _Supernet(), []
    monkeypatch.setattr(noah, "load_trained", lambda *args: model)
    monkeypatch.setattr(
        noah.Runner, "build_dataloader", lambda loader, **kwargs: read.append(loader.dataset.split) or loader
    )
    monkeypatch.setattr(noah, "accuracy", lambda model, loader: worth(model))
    return noah.search(cfg, "supernet", str(folder)), read, model, cfg


def test_noah_looks_at_validation_images_and_takes_the_best(monkeypatch, tmp_path):
    found, read, model, cfg = searched(monkeypatch, tmp_path, lambda model: float(sum(model.sizes())))
    assert read == ["val200"]
    accuracies = json.loads((tmp_path / noah.SEARCH).read_text())["accuracy"]
    space = find_space(get_adaptation(model.backbone).on_host.values(), cfg.noah)
    best = max(accuracies.values())
    assert best > min(accuracies.values())
    assert best in [value for key, value in accuracies.items() if space.fields(json.loads(key)) == found]


def test_of_equal_subnets_noah_takes_the_smallest(monkeypatch, tmp_path):
    found, _, model, cfg = searched(monkeypatch, tmp_path, lambda model: 50.0)
    accuracies = json.loads((tmp_path / noah.SEARCH).read_text())["accuracy"]
    space = find_space(get_adaptation(model.backbone).on_host.values(), cfg.noah)
    counts = {json.dumps(space.fields(json.loads(key))): space.count(json.loads(key)) for key in accuracies}
    assert counts[json.dumps(found)] == min(counts.values()) < max(counts.values())


@pytest.mark.parametrize("looks", [[0.4, 0.9, 0.6], [0.1, 0.2, 0.3]])
def test_a_trial_is_worth_its_last_look(monkeypatch, tmp_path, looks):
    study = Study.of("configs/mini/lora_nano_vit.py", "digits", "mini", str(tmp_path), 1, space={"lr": [1e-3]})
    asked = study.open().ask()

    def train(cfg, *hooks):
        opened = trial.open_trial(study.storage, asked._trial_id)
        for step, value in enumerate(looks, start=1):
            opened.report(value, step)

    monkeypatch.setattr(trial, "train", train)
    job = trial.TrialJob(
        root=study.root,
        folder=str(study.folder),
        storage=study.storage,
        number=asked.number,
        identifier=asked._trial_id,
        config=str(ROOT / "configs/mini/lora_nano_vit.py"),
        task="digits",
    )
    job.run()
    assert job.outcome()["value"] == looks[-1]
    assert list(job.outcome()["looks"].values()) == looks


def test_children_of_noah_are_of_both_parents_and_mutations_change_depth_or_size():
    space = Space.__new__(Space)
    space.blocks, space.depths, space.choices = 3, (1, 3), (2, 10)
    one, other = ((2, 2, 2),) * 3, ((10, 0, 0),) * 3
    children = {space.cross(one, other, random.Random(seed)) for seed in range(100)}
    assert children == set(itertools.product(*zip(one, other, strict=True)))
    space.settings = {"depth_prob": 1.0, "size_prob": 0.0}
    depths = {tuple(map(bool, kind)) for seed in range(20) for kind in space.mutate(one, random.Random(seed))}
    assert depths == {(True, False, False), (True, True, True)}
    space.settings = {"depth_prob": 0.0, "size_prob": 0.0}
    assert space.mutate(one, random.Random(0)) == one
    space.settings = {"depth_prob": 0.0, "size_prob": 1.0}
    sizes = {kind for seed in range(100) for kind in space.mutate(other, random.Random(seed))}
    assert sizes == {(2, 0, 0), (10, 0, 0)}
