"""What makes a run an honest one."""

from pathlib import Path

import pytest
from mmengine import Config
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook

from vpeft import UserError
from vpeft.apis.config.load import load_config
from vpeft.apis.config.protocol import one_look, protocol
from vpeft.apis.config.setting import effective_config
from vpeft.apis.config.shots import choose_shots
from vpeft.apis.tune.trial import trial_config

CONFIG = Path(__file__).parents[3] / "configs/mini/lora_nano_vit.py"


def test_the_shipped_configs_follow_it():
    found = protocol(load_config(CONFIG, "digits"))
    assert found["faults"] == []
    assert (found["train_split"], found["eval_split"], found["test_looks"]) == ("train800val200", "test", 1)


@pytest.mark.parametrize(
    ("options", "looks", "words"),
    [
        ({"train_split": "train800"}, 1, "trained on train800, not again on train800val200"),
        ({"eval_split": "val200"}, 0, "evaluated on val200, not on the test set"),
        ({"authors_values": True, "per_task": {"columns": [], "digits": []}}, 1, "chosen by test accuracy"),
        ({"default_hooks.checkpoint.save_best": "auto"}, 1, "CheckpointHook may choose the epoch"),
        ({"custom_hooks": [{"type": "EarlyStoppingHook", "monitor": "loss"}]}, 1, "EarlyStoppingHook may choose"),
    ],
)
def test_departures_are_named(options, looks, words):
    found = protocol(load_config(CONFIG, "digits", options))
    assert found["test_looks"] == looks
    assert any(words in fault for fault in found["faults"])


class Mine(EarlyStoppingHook):
    """Under a name of its own."""


class Sees(Hook):
    """A hook of a user's that is told what a validation gave."""

    def after_val_epoch(self, runner, metrics=None):
        """May choose."""


@pytest.mark.parametrize(
    ("hook", "name"),
    [
        ({"type": EarlyStoppingHook, "monitor": "loss"}, "EarlyStoppingHook"),
        ({"type": "mmengine.hooks.EarlyStoppingHook", "monitor": "loss"}, "EarlyStoppingHook"),
        ({"type": Mine, "monitor": "loss"}, "Mine"),
        ({"type": CheckpointHook, "save_best": "auto"}, "CheckpointHook"),
        ({"type": "Several", "hooks": [{"type": "EarlyStoppingHook", "monitor": "loss"}]}, "EarlyStoppingHook"),
    ],
)
def test_a_hook_that_chooses_is_known_by_its_class(hook, name):
    cfg = load_config(CONFIG, "digits")
    cfg.custom_hooks = [*cfg.get("custom_hooks", []), hook]
    assert protocol(cfg)["faults"] == [f"{name} may choose the epoch"]


def test_a_hook_of_ones_own_may_choose_where_something_is_validated():
    cfg = load_config(CONFIG, "digits")
    cfg.custom_hooks = [{"type": Sees}, {"type": "EMAHook"}, {"type": CheckpointHook}]
    assert protocol(cfg)["faults"] == []
    other = detection()
    other.custom_hooks, other.val_dataloader.dataset.ann_file = [{"type": Sees}], "minival.json"
    assert protocol(other)["faults"] == ["Sees may choose the epoch"]


@pytest.mark.parametrize(
    ("suite", "task", "final", "tune", "val"),
    [("fgvc", "cub200", "train", "train", "val"), ("many_shot", "cifar100_full", "trainval", "train", "val")],
)
def test_other_suites_have_lists_of_their_own(suite, task, final, tune, val):
    config = CONFIG.parents[1] / suite / "lora_vit.py"
    found = protocol(load_config(config, task))
    assert (found["faults"], found["train_split"], found["test_looks"]) == ([], final, 1)
    trial = trial_config(str(config), task, {})
    assert (trial.train_dataloader.dataset.split, trial.test_dataloader.dataset.split) == (tune, val)
    assert trial.val_dataloader.dataset.split == val


def detection() -> Config:
    """As usual configs of detection are: validated on what is tested."""
    dataset = {"type": "CocoDataset", "ann_file": "val.json", "test_mode": True, "pipeline": [1]}
    other = {**dataset, "pipeline": [2]}
    loop = {"max_epochs": 12, "val_interval": 2}
    return Config(
        {
            "val_dataloader": {"dataset": dataset},
            "test_dataloader": {"dataset": {"type": "RepeatDataset", "dataset": other}},
            "train_cfg": loop,
            "val_cfg": {},
            "val_evaluator": {},
        }
    )


def test_validation_on_the_test_images_is_counted_and_taken_out():
    found = protocol(detection())
    assert found["test_looks"] == 7
    assert found["faults"] == ["the test set is validated on every 2 of 12"]
    cfg = one_look(detection())
    assert cfg.val_dataloader is None
    assert protocol(cfg)["faults"] == []


def test_validation_on_other_images_stays():
    cfg = detection()
    cfg.val_dataloader.dataset.ann_file = "minival.json"
    assert one_look(cfg).val_dataloader is not None
    assert protocol(cfg)["test_looks"] == 1


def test_shots_are_of_each_class_nested_and_the_same_for_all():
    labels = [0, 1, 2] * 20
    one, five = choose_shots(labels, 1), choose_shots(labels, 5)
    assert [labels[i] for i in one] == sorted(labels[i] for i in one) or len(one) == 3
    assert sorted(labels[i] for i in five) == [0] * 5 + [1] * 5 + [2] * 5
    assert set(one) < set(five)
    assert choose_shots(labels, 5) == five
    assert choose_shots(labels, 5, seed=1) != five


@pytest.mark.parametrize("shots", [0, -1, 2.5, True, "5"])
def test_shots_must_be_a_number(shots):
    with pytest.raises(UserError, match="whole number of at least 1"):
        choose_shots([0, 1], shots)


def test_too_many_shots_say_which_class():
    with pytest.raises(UserError, match="shots=3: class 1 has 2 images"):
        choose_shots([0, 0, 0, 1, 1], 3)


def test_few_shot_config_reads_only_these_images():
    from mmengine.registry import DATASETS, init_default_scope

    cfg = effective_config(str(CONFIG), "digits", {}, {"shots": 2})
    init_default_scope("mmpretrain")
    data = DATASETS.build(cfg.train_dataloader.dataset)
    labels = sorted(data.get_data_info(i)["gt_label"] for i in range(len(data)))
    assert labels == sorted([*range(10)] * 2)
    assert "indices" not in cfg.test_dataloader.dataset
