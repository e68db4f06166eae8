"""Which setting follows from trials, the file of them, and the configs that take it."""

import shutil
from pathlib import Path

import pytest

from vpeft import UserError
from vpeft.apis.config.load import load_config
from vpeft.apis.config.origin import origin_of
from vpeft.apis.rates.evidence import (
    EVIDENCE,
    RATE,
    RateTrial,
    choose,
    read_evidence,
    searched_options,
    searched_tasks,
    write_evidence,
)
from vpeft.apis.rates.page import rate_faults, rate_settings, rates_page
from vpeft.core.datasets.tasks import SUITES

ROOT = Path(__file__).parents[3]
RATES = [1e-3, 1.78e-3, 3.16e-3, 5.62e-3]


def trials(values, method="lora", tasks=("digits", "tissue"), host="nano_vit"):
    """Trials with values by rate and size, the same on all tasks or a list with one for each."""
    by_task = {task: [] for task in tasks}
    for (rate, size), value in values.items():
        for place, task in enumerate(tasks):
            one = value[place] if isinstance(value, list) else value
            by_task[task].append(RateTrial(method, host, task, rate, size, one, len(values), "abc"))
    return [trial for own in by_task.values() for trial in own]


def at(values, size="rank=8"):
    return {(rate, size): value for rate, value in zip(RATES, values, strict=True)}


def test_the_best_mean_over_tasks_wins():
    # 5.62e-3 is the best on one task, 1.78e-3 over both
    found = choose(trials(at([0.5, [0.7, 0.6], 0.55, [0.9, 0.2]])))
    assert (found.rate, found.size, found.mean) == (1.78e-3, "rank=8", pytest.approx(0.65))
    assert (found.values, found.trials, found.at_end) == ({"digits": 0.7, "tissue": 0.6}, 4, "")
    assert found.options() == {RATE: 1.78e-3, "model.backbone.method.rank": 8}


def test_of_equal_settings_the_smaller_rate_and_then_the_smaller_size():
    equal = {
        (3.16e-3, "rank=4"): 0.6,
        (1.78e-3, "rank=16"): 0.6,
        (1.78e-3, "rank=8"): [0.7, 0.5],
        (1e-3, "rank=8"): 0.5,
    }
    found = choose(trials(equal))
    assert (found.rate, found.size) == (1.78e-3, "rank=8")


def test_a_setting_that_failed_on_a_task_is_none():
    assert choose(trials(at([0.5, [0.9, None], 0.6, 0.4]))).rate == 3.16e-3
    assert choose(trials(at([[None, 0.1]] * 4))) is None


@pytest.mark.parametrize(("best", "end"), [(0, "lowest"), (1, ""), (2, ""), (3, "highest")])
def test_a_best_rate_at_an_end_is_a_fault(best, end):
    found = rate_settings(trials(at([0.9 if i == best else 0.5 for i in range(4)])), {"nano_vit": list(SUITES["mini"])})
    assert found[0].at_end == end
    assert [end in fault for fault in rate_faults(found)] == [True] * bool(end)


def test_unequal_trials_are_a_fault():
    both = trials(at([0.5, 0.6, 0.5, 0.4])) + trials({**at([0.5, 0.6, 0.5, 0.4]), (2e-3, "rank=4"): 0.1}, "mona")
    assert rate_faults(rate_settings(both, {"nano_vit": list(SUITES["mini"])})) == [
        "nano_vit: methods had unequal numbers of trials on a task: 4 of lora; 5 of mona"
    ]


def test_the_file_gives_back_what_was_put_in(tmp_path):
    file = tmp_path / EVIDENCE
    first, other = trials(at([0.5, 0.625, None, 0.4])), trials(at([0.1, 0.2, 0.3, 0.4], ""), "full")
    write_evidence(file, first)
    write_evidence(file, other)
    assert sorted(map(repr, read_evidence(file))) == sorted(map(repr, [*first, *other]))
    again = trials(at([0.9, 0.8, 0.7, 0.6]), tasks=["digits"])
    write_evidence(file, again)  # in the place of those of the same method, host and task
    kept = {(t.method, t.task): t.validation for t in read_evidence(file) if t.rate == 1e-3}
    assert kept == {("lora", "digits"): 0.9, ("lora", "tissue"): 0.5, ("full", "digits"): 0.1, ("full", "tissue"): 0.1}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace("rate,size", "lr,size"), "its first line must be method,host,task,rate"),
        (lambda text: text.rpartition("lora")[0], "tissue had 4 trials, and 3 are there"),
        (lambda text: text.replace("0.625", "62.5"), "between 0 and 1"),
        (lambda text: text.replace("0.625", "high"), "is no trial .*high"),
        (lambda text: text.replace("rank=8", "rank=", 1), "is no trial"),
    ],
)
def test_a_broken_file_is_refused(tmp_path, change, says):
    file = write_evidence(tmp_path / EVIDENCE, trials(at([0.5, 0.625, 0.5, 0.4])))
    file.write_text(change(file.read_text()))
    with pytest.raises(UserError, match=says):
        read_evidence(file)


@pytest.fixture
def configs(tmp_path):
    """A copy of the configs of the embedded tasks, without evidence."""
    for name in ("_base_", "mini"):
        shutil.copytree(ROOT / "configs" / name, tmp_path / name, ignore=shutil.ignore_patterns(EVIDENCE))
    return tmp_path / "mini"


def test_configs_take_what_was_searched_on_all_tasks_alone(configs):
    whole = trials(at([0.5, 0.6, 0.5, 0.4], "rank=4"), tasks=SUITES["mini"])
    some = trials(at([0.5, 0.6, 0.5, 0.4], ""), "full")
    write_evidence(configs / EVIDENCE, [*whole, *some])
    cfg = load_config(configs / "lora_nano_vit.py", "tissue")
    assert (cfg.optim_wrapper.optimizer.lr, cfg.model.backbone.method) == (
        1.78e-3,
        {"type": "LoRA", "rank": 4, "targets": ["q", "v"]},
    )
    assert [RATE in step.keys for step in origin_of(cfg).steps if step.name.startswith("the search for rates")] == [
        True
    ]
    for other, rate in (("full_nano_vit.py", 0.0005), ("lora_nano_swin.py", 0.005)):  # partial, and another host
        assert load_config(configs / other, "tissue").optim_wrapper.optimizer.lr == rate
    options = {RATE: 0.5}
    assert load_config(configs / "lora_nano_vit.py", options=options).optim_wrapper.optimizer.lr == 0.5
    assert searched_options(configs / EVIDENCE, "full", "nano_vit", ["digits"]) == {RATE: 1.78e-3}


def test_a_recipe_says_which_tasks_decide(configs):
    """Two of the nine real tasks; a suite without a word of its recipe is searched whole."""
    shutil.copytree(ROOT / "configs" / "small", configs.parent / "small", ignore=shutil.ignore_patterns(EVIDENCE))
    folder, tasks = configs.parent / "small", ["real_photos", "real_turns"]
    found = trials(at([0.5, 0.6, 0.5, 0.4], ""), tasks=tasks, host="dinov2_small")
    write_evidence(folder / EVIDENCE, found)
    assert load_config(folder / "lora_dinov2_small.py", "tissue").optim_wrapper.optimizer.lr == 1.78e-3
    (folder / EVIDENCE).unlink()
    write_evidence(folder / EVIDENCE, [one for one in found if one.task == tasks[0]])
    assert load_config(folder / "lora_dinov2_small.py", "tissue").optim_wrapper.optimizer.lr == 1e-3
    assert searched_tasks({"suite": "mini"}, "nano_vit") == list(SUITES["mini"])
    assert searched_tasks({}, "swin-b_coco") == ["swin-b_coco"]
    with pytest.raises(UserError, match="photoss"):
        searched_tasks({"suite": "real", "searched_on": ["photoss"]}, "dinov2_small")


def test_the_page_says_what_is_partial():
    page = rates_page(
        trials(at([0.5, 0.6, 0.5, 0.4])) + trials(at([None, 0.2, 0.3, 0.4]), "mona", SUITES["mini"]),
        {"nano_vit": list(SUITES["mini"])},
        "rates.csv",
    )
    (partial,) = [line for line in page.splitlines() if line.startswith("| lora | 0.00178 | rank=8 ")]
    assert partial.count("no: partial, without photos, textures, ") == 1
    assert "| **60.0** | 4 | abc |" in partial
    (whole,) = [line for line in page.splitlines() if line.startswith("| mona | 0.00562 ")]
    assert whole.endswith("| abc | yes |")
    assert "- mona on nano_vit: the highest of the rates that were tried, 0.00562, is the best" in page
    assert "Trials that failed: 8 of mona." in page
    assert "| lora | rank=8 | 0.001: 50.0, **0.00178: 60.0**, 0.00316: 50.0, 0.00562: 40.0 |" in page


def test_the_pages_of_the_repository_follow_from_their_evidence():
    from vpeft.apis.rates.write import tasks_of_hosts

    pages = {"mini": "rates.md"}  # of another folder of configs rates_<folder>.md
    for file in ROOT.glob(f"configs/*/{EVIDENCE}"):
        name = file.parent.name
        made = rates_page(read_evidence(file), tasks_of_hosts(file.parent), f"configs/{name}/{EVIDENCE}")
        assert (ROOT / "docs" / pages.get(name, f"rates_{name}.md")).read_text() == made
