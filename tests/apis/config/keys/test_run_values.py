"""Values of the run: each is refused where it is none of its kind, wherever in its section it stands."""

import math

import pytest
from mmengine import Config

from vpeft.apis.config.keys.options import check_keys
from vpeft.apis.config.keys.values import KINDS, NUMBERS
from vpeft.apis.config.load import load_config
from vpeft.apis.config.names import configs_folder
from vpeft.errors import UserError

LINEAR = str(configs_folder() / "mini/linear_nano_vit.py")
#: A place in the section where each number stands.
WHERE = {
    "train_cfg": "train_cfg.{}",
    "param_scheduler": "param_scheduler.1.{}",
    "optim_wrapper": "optim_wrapper.optimizer.{}",
    "default_hooks": "default_hooks.checkpoint.{}",
    "log_processor": "log_processor.{}",
    "model": "model.head.loss.{}",
}
RULES = [(section, name) for section, numbers in NUMBERS.items() for name in numbers]


def config(key, value):
    for name in reversed(key.split(".")):
        value = [{}, value] if name == "1" else {name: value}
    return Config(value)


@pytest.mark.parametrize(("section", "name"), RULES)
def test_every_number(section, name):
    rule, key = NUMBERS[section][name], WHERE.get(section, section + ".{}").format(name)
    wrong = ["x", "", True, math.nan]
    wrong += [1.5, math.inf, "3"] if rule.whole else []
    wrong += [rule.low if rule.above else rule.low - 1] if rule.low > -math.inf else [-math.nan]
    for value in wrong:
        if value == rule.off:
            continue
        with pytest.raises(UserError, match=r"^config x\.py: .* must be a (whole )?number.*, not ") as error:
            check_keys(config(key, value), {}, "x.py")
        assert f"{key} must be {rule.words()}, not {value!r}" in str(error.value)
    low = rule.low if rule.low > -math.inf else -1
    right = [low + 1, 3, None, [1, 2]]
    right += [] if rule.above else [low]
    right += [] if rule.off is None else [rule.off]
    for value in right:
        check_keys(config(key, value), {}, "x.py")


@pytest.mark.parametrize("key", KINDS)
def test_every_kind(key):
    with pytest.raises(UserError, match=rf"^config x\.py: {key} must be .*, not 3$"):
        check_keys(Config({key: 3}), {}, "x.py")
    check_keys(Config({key: None}), {}, "x.py")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("train_cfg.val_interval", 0, "a whole number of at least 1, not 0"),
        ("optim_wrapper.clip_grad.max_norm", -1, "a number above 0, not -1"),
        ("optim_wrapper.optimizer.lr", True, "a number of at least 0, not True"),
        ("param_scheduler.0.end", "x", "a number above 0, not 'x'"),
        ("default_hooks.checkpoint.max_keep_ckpts", 0, "a whole number of at least 1, or -1 for none, not 0"),
        ("train_dataloader.batch_size", "two", "a whole number of at least 1, not 'two'"),
        ("model.head.loss.loss_weight", "x", "a number, not 'x'"),
        ("compile", "x", "True, False or the options of torch.compile, not 'x'"),
    ],
)
def test_an_option_is_named(key, value, words):
    with pytest.raises(UserError) as error:
        load_config(LINEAR, "digits", {key: value})
    assert str(error.value) == f"--cfg-options {key}={value!r}: {key} must be {words}"
