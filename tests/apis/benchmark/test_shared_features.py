"""All runs of a plan, and all trials of a search, find one another's frozen features."""

from pathlib import Path

import pytest

from vpeft import UserError
from vpeft.apis.benchmark.plan import Plan
from vpeft.apis.config.load import load_config
from vpeft.apis.run.prepare import prepare, share_features
from vpeft.apis.tune.study import Study, tune

ROOT = Path(__file__).parents[3]
FAST = {
    "train_cfg.max_epochs": 2,
    "train_dataloader.batch_size": 25,
    "train_dataloader.dataset.indices": 60,
    "test_dataloader.dataset.indices": 20,
}


@pytest.fixture(autouse=True)
def _root(monkeypatch):
    monkeypatch.chdir(ROOT)


def logs(folder):
    return [file.read_text() for file in sorted(folder.rglob("*.log")) if file.name != "job.log"]


def spared(log):
    return [line.rsplit("features: ", 1)[1] for line in log.splitlines() if "images were spared" in line]


@pytest.mark.slow
def test_the_second_seed_runs_no_block_but_to_compare(tmp_path):
    fields = {"tasks": ["digits"], "seeds": [0, 1], "feature_cache": "200MB"}
    plan = Plan(["linear"], options={**FAST, "log_level": "INFO"}, **fields)
    one, other = plan.jobs(str(tmp_path))
    one.run()
    other.run()
    assert spared(*logs(one.work_dir)) == ["35 images were spared 6 blocks."]  # 60 are made, 25 compared
    assert spared(*logs(other.work_dir)) == ["85 images were spared 6 blocks."]  # 35 of 120 are compared
    assert (tmp_path / "features/data.mdb").is_file()


def test_a_plan_hands_the_limit_on_and_its_runs_are_the_same_runs(tmp_path):
    plain, kept = (Plan(["linear"], tasks=["digits"], seeds=[0], feature_cache=limit) for limit in (None, "1GB"))
    (one,), (other,) = plain.jobs(str(tmp_path)), kept.jobs(str(tmp_path))
    assert (one.feature_cache, other.feature_cache) == (None, "1GB")
    assert one.name == other.name
    with pytest.raises(UserError, match="give bytes or a size"):
        Plan(["linear"], feature_cache="much")


def test_the_folder_is_that_of_the_results_unless_the_user_says_otherwise(tmp_path):
    def cfg(**options):
        return prepare(load_config("configs/mini/linear_nano_vit.py", "digits", options), str(tmp_path / "run"))

    shared = share_features(cfg(), "1GB", str(tmp_path)).feature_cache
    assert (shared.limit, shared.folder) == ("1GB", str(tmp_path / "features"))
    assert share_features(cfg(), None, str(tmp_path)).feature_cache.limit is None
    with pytest.raises(UserError, match=r"feature_cache\.folder='/mine' contradicts feature_cache of all runs"):
        share_features(cfg(**{"feature_cache.folder": "/mine"}), "1GB", str(tmp_path))


@pytest.mark.slow
def test_trials_of_a_search_share_them(tmp_path):
    from vpeft.apis.jobs.engines.local import LocalEngine

    options = {**FAST, "log_level": "INFO"}
    grid = Study.of(
        "configs/mini/linear_nano_vit.py",
        "digits",
        "mini",
        str(tmp_path),
        space={"lr": [0.01, 0.02]},
        grid=True,
        options=options,
    )
    grid.feature_cache = "200MB"
    with LocalEngine(workers=1, devices=[], start="fork") as engine:
        tune([grid], engine, quiet=True)
    first, second = (int(line.split()[0]) for log in logs(tmp_path / "work") for line in spared(log))
    assert (tmp_path / "features/data.mdb").is_file()
    assert second == first + 50  # of its first epoch, whose last batch of 10 is compared, as in the first run's
