"""The search of a plan. What a trial comes to is a formula here; nothing is trained."""

import json
import math
from pathlib import Path

import pytest

from vpeft import UserError
from vpeft.apis.benchmark.plan import Plan, load_plan
from vpeft.apis.benchmark.run_plan import benchmark
from vpeft.apis.commands.words.study import rates
from vpeft.apis.config.recipes import recipes
from vpeft.apis.jobs.engines.build import ENGINES
from vpeft.apis.jobs.engines.engine import Engine
from vpeft.apis.jobs.job import Outcome
from vpeft.apis.rates import write
from vpeft.apis.rates.evidence import RATE, read_evidence
from vpeft.apis.rates.search import ROOMS, read_trials
from vpeft.apis.tune import trial
from vpeft.apis.tune.study import Study
from vpeft.apis.tune.trial import open_trial, trial_config

ROOT = Path(__file__).parents[3]
RANK = "model.backbone.method.rank"


@pytest.fixture(autouse=True)
def _root(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setitem(ENGINES, "by_rule", ByRule)
    monkeypatch.setattr(trial, "git_hash", lambda: "0123456789abcdef+")
    ByRule.jobs, ByRule.stop = [], None


class ByRule(Engine):
    """Ends trials with a value that a rate of 1e-2 and rank 4 make best."""

    jobs, stop = [], None

    def __init__(self, threads=1):
        self.waiting = []

    def submit(self, jobs):
        self.waiting += jobs

    def finished(self, timeout):
        if len(self.jobs) == self.stop:
            raise KeyboardInterrupt
        job = self.waiting.pop()
        self.jobs.append(job)
        rank = job.options.get(RANK)
        value = 0.8 - abs(math.log10(job.options[RATE]) + 2) / 10 - ((rank or 4) - 4) / 100
        open_trial(job.storage, job.identifier).report(value, 1)
        job._end({"state": "complete", "value": value})
        return [(job, Outcome())]


def plan(trials=8, **fields):
    search = {"trials": trials, "rates": [1e-4, 1e-3, 1e-2, 1e-1]}
    return Plan(**{"methods": ["lora", "bitfit"], "tasks": ["digits"], "search": search, **fields})


def test_every_method_has_as_many_trials_and_the_best_is_found(tmp_path, capsys):
    assert benchmark(plan(), str(tmp_path), "by_rule") == []
    assert "2 pairs of config and task, 8 trials each" in capsys.readouterr().err
    trials = read_trials(tmp_path).trials
    counts = {(t.method, t.task): t.trials for t in trials}
    assert counts == {("lora", "digits"): 8, ("bitfit", "digits"): 8}
    tried = {(t.rate, t.size) for t in trials if t.method == "lora"}
    ours = {(r, "rank=8") for r in (1e-4, 1e-3, 3.16e-3, 1e-2, 3.16e-2, 1e-1)}
    assert tried == ours | {(1e-2, "rank=4"), (1e-2, "rank=16")}
    assert {t.commit for t in trials} == {"0123456789+"}
    assert {job.looks for job in ByRule.jobs} == {1}
    before = len(ByRule.jobs)
    benchmark(plan(), str(tmp_path), "by_rule")
    assert len(ByRule.jobs) == before == 16  # nothing is run twice

    (ours := tmp_path / "configs/mini/_base_").mkdir(parents=True)
    for file in (ROOT / "configs/mini/_base_").glob("*.py"):
        (ours / file.name).write_text(f"suite = 'mini'\nmethods_table = '{file.stem}'\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "configs_folder", lambda: tmp_path / "configs")
        assert rates.main([str(tmp_path), "--page", str(tmp_path / "rates.md")]) == 0
        said = capsys.readouterr().out
        assert "lora on nano_vit: rate 0.01  rank=4  80.00 % on 1 tasks, 8 trials each  partial" in said
        assert len(read_evidence(tmp_path / "configs/mini/rates.csv")) == 16
        assert "| lora | 0.01 | rank=4 | 80.0 | **80.0** | 8 |" in (tmp_path / "rates.md").read_text()


@pytest.mark.parametrize("stop", [2, 5, 7])  # among the rates, those beside the best, the sizes
def test_a_search_that_was_cut_off_goes_on(tmp_path, stop):
    ByRule.stop, room = stop, ROOMS[(stop > 4) + (stop > 6)]
    with pytest.raises(KeyboardInterrupt):
        benchmark(plan(methods=["lora"]), str(tmp_path), "by_rule")
    assert read_trials(tmp_path).unfinished == [str(tmp_path / room / "lora_nano_vit/digits")]
    ByRule.stop = None
    benchmark(plan(methods=["lora"]), str(tmp_path), "by_rule")
    found = read_trials(tmp_path)
    rates = [1e-4, 1e-3, 1e-2, 1e-1, 3.16e-3, 3.16e-2, 1e-2, 1e-2]
    assert ([t.rate for t in found.trials], found.unfinished) == (rates, [])
    assert len(ByRule.jobs) == 8


def test_a_task_of_no_suite_is_searched_on_its_own_validation_images(tmp_path):
    one = plan(2, methods=["bitfit"], backbones=["nano_swin_segmentation"], search={"trials": 2, "rates": [1e-3, 1e-2]})
    benchmark(one, str(tmp_path), "by_rule")
    assert {(t.host, t.task, t.trials) for t in read_trials(tmp_path).trials} == {
        ("nano_swin_segmentation", "nano_swin_segmentation", 2)
    }
    job = ByRule.jobs[0]
    cfg = trial_config(job.config, job.task, job.options, job.looks)
    assert (cfg.val_dataloader.dataset.split, cfg.train_cfg.val_interval) == ("val", cfg.train_cfg.max_iters)


def test_the_plan_of_the_repository_gives_all_the_same_number():
    whole = load_plan("configs/plans/rates.yaml")
    assert whole.search["trials"] == 7 + 2 + 2
    assert (whole.methods, whole.tasks) == (["all"], ["all"])
    assert sorted(whole.backbones) == sorted(recipes("configs/mini"))


def test_wrong_searches_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"search.trials=2 is less than the 4 rates of .*lora_nano_vit"):
        benchmark(plan(2), str(tmp_path), "by_rule", dry_run=True)
    with pytest.raises(UserError, match="search beside sweep or tune"):
        plan(sweep={"rank": [1, 2]})
    with pytest.raises(UserError, match=r"--folder minni: .*did you mean 'mini'"):
        rates.main(["--folder", "minni"])
    with pytest.raises(UserError, match="has no trials of rates"):
        rates.main([str(tmp_path)])
    points = [{"lr": 1e-3, "rank": 8}, {"lr": 1e-3, "rank": 0}]
    with pytest.raises(UserError, match=r"rank.*the host takes"):
        Study.of_points("configs/mini/lora_nano_vit.py", "digits", "mini", str(tmp_path), points)


def test_searches_of_one_config_are_looked_at_too(tmp_path, capsys):
    for name, ends in (("a", ["lr"]), ("b", [])):
        (folder := tmp_path / f"tuning/lora_nano_vit/{name}").mkdir(parents=True)
        (folder / "best.json").write_text(json.dumps({"tuning": {"at_end": ends}}))
    assert rates.main([str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert f"fault: {tmp_path}/tuning/lora_nano_vit/a: the best lr lies at an end of what was searched" in said
    assert "/b:" not in said
