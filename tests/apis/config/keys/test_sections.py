"""Every key of every section that no class takes whole: known ones pass, a slip of each is refused."""

import inspect
import re

import pytest
from mmengine import Config
from mmengine.hooks import CheckpointHook
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.runner import Runner
from torch import nn

from vpeft.apis.config.keys.options import check_keys
from vpeft.apis.config.keys.sections import CLOSED, HOOK_NAMES
from vpeft.core.adaptation.training.parameter_groups import OWN_KEYS, PARAMWISE, PEFTOptimWrapperConstructor
from vpeft.errors import UserError

OURS, ANOTHER = "vpeft.PEFTOptimWrapperConstructor", "LearningRateDecayOptimWrapperConstructor"
#: What a section holds beside the key that is looked at.
BESIDE = {"default_hooks.checkpoint": {"type": "CheckpointHook"}}
SECTIONS = {path: known(BESIDE.get(path, {})) for path, known in CLOSED.items()}


def config(path, node):
    for name in reversed(path.split(".")):
        node = {name: node}
    return Config(node)


def refusal(path, node):
    with pytest.raises(UserError) as error:
        check_keys(config(path, node), {}, "x.py")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("path", "key"), [(path, key) for path, keys in SECTIONS.items() for key in sorted(keys - {"type"})]
)
def test_a_key_is_known_and_a_slip_of_it_is_refused(path, key):
    beside, slip = BESIDE.get(path, {}), f"{key[:-2]}{key[-1]}{key[-2]}x"
    check_keys(config(path, {**beside, key: {}}), {}, "x.py")
    assert f"config x.py: {path} has no {slip!r}: did you mean {key!r}?" in refusal(path, {**beside, slip: 1})


def test_sections_are_those_that_the_runner_reads():
    assert {"train_cfg", "val_cfg", "test_cfg", "env_cfg", "randomness", "log_processor"} <= SECTIONS.keys()
    assert {"max_epochs", "max_iters", "val_interval", "by_epoch"} <= SECTIONS["train_cfg"]
    assert SECTIONS["data_store"] == {"limit", "folder", "shared"}
    assert SECTIONS["feature_cache"] == {"limit", "folder", "views"}
    assert SECTIONS["randomness"] == {"seed", "diff_rank_seed", "deterministic"}


def test_a_section_with_a_type_is_for_its_class():
    for path in ("train_cfg", "val_cfg", "log_processor", "train_dataloader"):
        check_keys(config(path, {"type": "Own", "whatever": 1}), {}, "x.py")
    check_keys(config("default_hooks.checkpoint", {"type": "Own", "whatever": 1}), {}, "x.py")
    check_keys(config("default_hooks.checkpoint", {"type": CheckpointHook, "interval": 1}), {}, "x.py")
    check_keys(Config({"env_cfg": None, "compile": True, "train_cfg": None}), {}, "x.py")


def test_the_loop_by_iterations_knows_no_epochs():
    check_keys(config("train_cfg", {"by_epoch": False, "max_iters": 3}), {}, "x.py")
    assert "train_cfg has no 'max_epochs'" in refusal("train_cfg", {"by_epoch": False, "max_epochs": 3})


def test_hooks_of_ones_own():
    for hook in ({"type": "Own"}, CheckpointHook()):
        check_keys(Config({"default_hooks": {"mine": hook, "timer": None}}), {}, "x.py")
    for hook in ({"interval": 3}, None, {"type": "CheckpointHook"}):
        assert "did you mean 'checkpoint'?" in refusal("default_hooks", {"chekpoint": hook})
    assert "has no 'mine'" in refusal("default_hooks", {"mine": {"interval": 3}})


def test_names_of_hooks_are_mmengines():
    named = re.findall(
        r"^            (\w+)=dict\(type='\w+Hook'", inspect.getsource(Runner.register_default_hooks), re.M
    )
    assert set(named) == HOOK_NAMES


def test_keys_of_parameter_groups_are_mmengines():
    text = inspect.getsource(DefaultOptimWrapperConstructor)
    text = text[text.index("def __init__") :]
    read = re.findall(r"paramwise_cfg\s*(?:\.get\(|\[)\s*'(\w+)'", text)
    assert {*read, *re.findall(r"'(\w+)' in self\.paramwise_cfg(?!\[)", text)} == PARAMWISE


@pytest.mark.parametrize("constructor", [None, "DefaultOptimWrapperConstructor", OURS])
def test_keys_of_parameter_groups(constructor):
    def wrapper(**keys):
        return {"constructor": constructor, "paramwise_cfg": keys}

    check_keys(config("optim_wrapper", wrapper(**dict.fromkeys(PARAMWISE))), {}, "x.py")
    assert "did you mean 'norm_decay_mult'?" in refusal("optim_wrapper", wrapper(norm_decay_mul=0.0))
    if constructor == OURS:
        check_keys(config("optim_wrapper", wrapper(**dict.fromkeys(OWN_KEYS))), {}, "x.py")
    else:
        assert "has no 'backbone_lr_mult'" in refusal("optim_wrapper", wrapper(backbone_lr_mult=0.1))
    custom = {"head": {"lr_mul": 0.1}}
    assert "custom_keys.head has 'lr_mul', and no 'lr_mult'" in refusal("optim_wrapper", wrapper(custom_keys=custom))
    check_keys(config("optim_wrapper", wrapper(custom_keys={"head": {"lr_mult": 0.1, "betas": 1}})), {}, "x.py")


def test_another_constructor_reads_keys_of_its_own():
    wrapper = {"constructor": ANOTHER, "paramwise_cfg": {"num_layers": 12, "decay_rate": 0.7}}
    check_keys(config("optim_wrapper", wrapper), {}, "x.py")


def test_our_constructor_refuses_by_itself():
    optimizer = {"type": "SGD", "lr": 0.1, "weight_decay": 0.1}
    build = PEFTOptimWrapperConstructor({"optimizer": optimizer}, {"norm_decay_mult": 0.0})
    assert build(nn.LayerNorm(2)).optimizer.param_groups[0]["weight_decay"] == 0.0
    with pytest.raises(UserError, match="did you mean 'norm_decay_mult'"):
        PEFTOptimWrapperConstructor({"optimizer": optimizer}, {"norm_decay_mul": 0.0})


def test_a_models_own_keys_are_free_and_slips_are_refused():
    mask = {"rcnn": {"max_per_img": 3, "own": 1, "nms": {"type": "nms", "iou_treshold": 0.5}}, "stages": [{"own": 1}]}
    check_keys(config("model.test_cfg", mask), {}, "x.py")
    assert "model.test_cfg has 'strides', and no 'stride'" in refusal("model.test_cfg", {"strides": (1, 1)})
    assert "model.test_cfg.rcnn has 'max_per_imgs'" in refusal("model.test_cfg", {"rcnn": {"max_per_imgs": 3}})
    check_keys(config("model.train_cfg", {"ga_assigner": {"type": "A"}, "rpn": {"reg_assigner": 1}}), {}, "x.py")
    assert "model.train_cfg.1 has 'nms_pr'" in refusal("model.train_cfg", [{}, {"nms_pr": 3}])


def test_an_option_is_named_as_it_was_given():
    for given in ({"randomness.sed": 1}, {"randomness": {"sed": 1}}):
        with pytest.raises(
            UserError, match=r"^--cfg-options randomness.*: randomness has no 'sed': did you mean 'seed'"
        ):
            check_keys(config("randomness", {"sed": 1}), given, "x.py")
