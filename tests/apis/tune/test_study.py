"""Searching settings. What a trial is worth comes from a formula here, but for the last test, which trains."""

import json
import math
import runpy
from pathlib import Path

import optuna
import pytest
from support.configs import mini_configs

from vpeft import UserError
from vpeft.apis.catalogue import config_parameters
from vpeft.apis.config.load import load_config
from vpeft.apis.jobs.engines.build import ENGINES
from vpeft.apis.jobs.engines.engine import Engine
from vpeft.apis.jobs.engines.local import LocalEngine
from vpeft.apis.jobs.job import Outcome
from vpeft.apis.run.disjoint import DisjointHook
from vpeft.apis.run.prepare import prepare
from vpeft.apis.run.train import train
from vpeft.apis.tune.study import Study, tune
from vpeft.apis.tune.trial import TrialJob, open_trial, trial_config
from vpeft.core.contract.search_space import COMMON, Range
from vpeft.registry import PEFT_METHODS

ROOT = Path(__file__).parents[3]
CONFIG = "configs/mini/lora_nano_vit.py"
LR, RANK = "optim_wrapper.optimizer.lr", "model.backbone.method.rank"


@pytest.fixture(autouse=True)
def _root(monkeypatch):
    monkeypatch.chdir(ROOT)


class Formula(Engine):
    """Ends trials with a value that a learning rate of 1e-3 and rank 4 make best, and stops after ``stop`` of them."""

    def __init__(self, stop: int | None = None, prune: bool = False) -> None:
        self.waiting: list[TrialJob] = []
        self.ended, self.stop, self.prune = 0, stop, prune

    def submit(self, jobs):
        self.waiting += jobs

    def finished(self, timeout):
        if self.ended == self.stop:
            raise KeyboardInterrupt
        job = self.waiting.pop()  # the last first: the order of ends must not matter
        if not job.done():
            value = 1 - abs(math.log10(job.options[LR]) + 3) / 10 - abs(job.options.get(RANK, 4) - 4) / 100
            trial = open_trial(job.storage, job.identifier)
            for step in (1, 2):
                trial.report(value, step)
            state = "pruned" if self.prune and trial.should_prune() else "complete"
            job._end({"state": state, "value": value})
            self.ended += 1
        return [(job, Outcome())]


def study(root, trials=8, **options) -> Study:
    return Study.of(CONFIG, "digits", "mini", str(root), trials, **options)


def trials_of(found: Study) -> list[tuple]:
    loaded = optuna.load_study(study_name="study", storage=found.storage)
    return [(t.number, t.params, t.value, t.state.name) for t in loaded.trials]


def test_same_seed_same_trials_other_seed_others(tmp_path):
    searches = [study(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    for one in searches:
        tune([one], Formula(), quiet=True)
    a, b, c = map(trials_of, searches)
    assert a == b
    assert len(a) == 8
    assert a[0] == c[0]  # the config as it is
    assert a[1:] != c[1:]
    assert len({json.dumps(params) for _, params, *_ in a}) > 5


@pytest.mark.parametrize("batch", [1, 3])
def test_a_search_that_was_cut_off_ends_with_the_same_trials(tmp_path, batch):
    whole, cut = study(tmp_path / "whole", batch=batch), study(tmp_path / "cut", batch=batch)
    tune([whole], Formula(prune=True), quiet=True)
    for stop in (0, 2, 1, 3):
        with pytest.raises(KeyboardInterrupt):
            tune([study(tmp_path / "cut", batch=batch)], Formula(stop, prune=True), quiet=True)
    assert sum(state in ("COMPLETE", "PRUNED") for *_, state in trials_of(cut)) < 8
    tune([cut], Formula(prune=True), quiet=True)
    assert trials_of(cut) == trials_of(whole)
    if batch == 1:  # with batches of three there are too few that could be given up
        assert {state for *_, state in trials_of(whole)} == {"COMPLETE", "PRUNED"}


@pytest.mark.parametrize("says", ["does not exist", "is empty"])
def test_a_study_that_is_lost_does_not_begin_anew_in_silence(tmp_path, says):
    tune([study(tmp_path)], Formula(), quiet=True)
    file = study(tmp_path).folder / "study.db"
    file.unlink()
    if says == "is empty":
        file.touch()
    with pytest.raises(UserError, match=rf"study\.db {says}: where it is damaged or lost, delete the folder"):
        study(tmp_path).open()
    study(tmp_path / "new").open()


def test_the_best_setting_is_a_config_that_trains_alone(tmp_path):
    one = study(tmp_path, trials=12)
    (best,) = tune([one], Formula(), quiet=True)
    values = {number: value for number, _, value, _ in trials_of(one)}
    assert best["tuning"]["best_value"] == max(values.values()) >= best["tuning"]["start_value"] == values[0]
    assert best["tuning"]["trials"] == 12
    cfg = load_config(one.folder / "best.py", "digits")
    assert cfg.optim_wrapper.optimizer.lr == best["options"][LR]
    assert cfg.model.backbone.method["rank"] == best["options"][RANK]
    assert (cfg.train_split, cfg.eval_split, cfg.train_dataloader.dataset.split) == (
        "train800val200",
        "test",
        "train800val200",
    )
    for name in ("history.png", "importance.png"):
        assert (one.folder / name).read_bytes().startswith(b"\x89PNG")


def test_a_grid_is_gone_through_in_order(tmp_path):
    grid = study(tmp_path, space={"lr": [0.01, 0.001], "rank": [2, 4], "drop": 0.2}, grid=True)
    assert grid.trials == 4
    (best,) = tune([grid], Formula(), quiet=True)
    assert [(p["lr"], p["rank"]) for _, p, *_ in trials_of(grid)] == [(0.01, 2), (0.01, 4), (0.001, 2), (0.001, 4)]
    assert best["options"] == {"model.backbone.method.drop": 0.2, LR: 0.001, RANK: 4}
    assert best["tuning"]["start_value"] is None


def test_lists_are_searched_scalars_are_fixed(tmp_path):
    one = study(tmp_path, space={"rank": [1, 2], "alpha": 4.0, "weight_decay": [0.0, 1e-4]})
    assert one.space["rank"] == [8, 1, 2]  # the config's own is among them
    assert one.space["lr"] == COMMON["lr"]
    assert "alpha" not in one.space
    assert one.fixed == {"model.backbone.method.alpha": 4.0}
    assert one.start["weight_decay"] == 1e-4


def test_the_options_of_all_methods_are_searched_too(tmp_path):
    sizes, none = {"stage0": 2, "block5": 4}, {"block6": 2}
    grid = study(
        tmp_path, space={"blocks": [1, "last 2", [0]], "extra": [[], ["norm"]], "rank": [sizes, none]}, grid=True
    )
    assert grid.space == {"blocks": [1, "last 2", [0]], "extra": [[], ["norm"]], "rank": [sizes]}
    assert study(tmp_path / "one", space={"blocks": [1, 2, 9]}).space["blocks"] == [None, 1, 2]


def test_values_that_the_host_refuses_are_not_tried(tmp_path):
    swin = Study.of("configs/mini/adaptformer_nano_swin.py", "digits", "mini", str(tmp_path))
    assert 64 not in swin.space["bottleneck"]  # its narrowest width is 24
    assert 16 in swin.space["bottleneck"]


def test_wrong_searches_say_so(tmp_path):
    with pytest.raises(UserError, match="did you mean 'rank'"):
        study(tmp_path, space={"rankk": [1]})
    with pytest.raises(UserError, match="nothing to search"):
        study(tmp_path, space={"rank": 1}, grid=True)
    with pytest.raises(UserError, match="no value of rank fits"):
        study(tmp_path, space={"rank": [0]}, grid=True)
    with pytest.raises(UserError, match="must be at least 1"):
        study(tmp_path, trials=0)
    study(tmp_path).open()
    with pytest.raises(UserError, match=r"another search \(seed differ\)"):
        study(tmp_path, seed=1).open()


def test_a_trial_never_leads_to_the_test_images():
    cfg = trial_config(CONFIG, "digits", {})
    splits = [cfg[f"{name}_dataloader"].dataset.split for name in ("train", "val", "test")]
    assert splits == ["train800", "val200", "val200"]
    assert cfg.train_cfg.val_interval == 4


def test_validating_on_test_images_is_refused(tmp_path):
    file = tmp_path / "odd.py"
    text = f'_base_ = ["{ROOT / CONFIG}"]\n'
    dataset = 'dict(type="vpeft.MiniVTAB", task="digits", split="test", pipeline=[])'
    file.write_text(text + f"\nsuite = None\nval_dataloader = dict(dataset=dict(_delete_=True, **{dataset}))\n")
    with pytest.raises(UserError, match="validates on its test images"):
        trial_config(str(file), None, {})


def test_a_search_that_trains_on_what_it_looks_at_is_refused(tmp_path):
    cfg = trial_config(CONFIG, "digits", {"train_cfg.max_epochs": 1})
    cfg.train_dataloader.dataset.split = "train800val200"
    with pytest.raises(UserError, match=r"a search chooses .* not trained on, and 200 of 200 images are for training"):
        train(prepare(cfg, str(tmp_path)), DisjointHook(refuse="a search"))


def test_every_method_declares_a_space():
    for name, cls in PEFT_METHODS.module_dict.items():
        space = cls.search_space()
        assert isinstance(space["lr"], Range), name
        assert all(isinstance(v, Range) or len(v) > 1 for v in space.values()), name
        assert set(space) - {"lr", "weight_decay"} <= set(cls.__dataclass_fields__), name


def test_the_tool_searches_and_prints_the_best(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(ENGINES, "formula", Formula)
    args = ["--task", "digits", "--grid", "lr=[0.01,0.001]", "drop=0", "--engine", "formula", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["tools/tune.py", CONFIG, *args])
    with pytest.raises(SystemExit) as end:
        runpy.run_path("tools/tune.py", run_name="__main__")
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert f'"{LR}": 0.001' in said
    assert f"a config that trains alone: {tmp_path}/tuning/lora_nano_vit/digits/best.py" in said


@pytest.mark.slow
def test_every_declared_value_builds_on_the_nano_vit():
    for path in mini_configs():
        cfg = load_config(path)
        if not path.endswith("_nano_vit.py") or "noah" in cfg:
            continue
        for name, values in PEFT_METHODS.get(cfg.model.backbone.method.type).search_space().items():
            for value in values if isinstance(values, list) else ():
                config_parameters(load_config(path, options={f"model.backbone.method.{name}": value}))


@pytest.mark.slow
def test_trials_train_look_and_are_given_up(tmp_path):
    options = {"train_cfg.max_epochs": 2, "train_dataloader.batch_size": 200}
    # The hopeless learning rates come last, when four trials tell what is usual.
    grid = study(tmp_path, space={"lr": [0.01, 0.02, 0.005, 0.008, 1e-7]}, grid=True, options=options)
    with LocalEngine(workers=1, devices=[], start="fork") as engine:
        (best,) = tune([grid], engine, quiet=True)
    outcomes = [json.loads((grid.folder / f"trial{i:04d}.json").read_text()) for i in range(5)]
    assert [o["state"] for o in outcomes] == ["complete"] * 4 + ["pruned"]
    assert set(outcomes[0]["looks"]) == {"1", "2"}
    assert set(outcomes[4]["looks"]) == {"1"}
    assert best["tuning"]["best_value"] == max(o["value"] for o in outcomes[:4]) > 0.2
