"""The command line: what is no pair, no flag or no setting is refused in one line with the nearest that is."""

import pytest
from mmengine import Config

from vpeft import UserError
from vpeft.apis.commands.arguments import OptionsAction, Parser, add_config_arguments, add_run_arguments
from vpeft.apis.config.keys.options import check_options
from vpeft.apis.config.load import load_config


def parsed(*words):
    parser = Parser(prog="tool")
    parser.add_argument("--cfg-options", nargs="+", action=OptionsAction)
    parser.add_argument("--work-dir")
    parser.add_argument("--kind", choices=["vit", "swin"])
    return parser.parse_args(words)


def test_pairs():
    words = ["a.b=1", "c=[1,2.5,(x,y)]", "d=None", "e=''", "f=img_{:05}.jpg", "g=(1,)", "h=[]", "i=a=b", "k=true"]
    found = parsed("--cfg-options", *words).cfg_options
    assert found == {
        "a.b": 1,
        "c": [1, 2.5, ("x", "y")],
        "d": None,
        "e": "",
        "f": "img_{:05}.jpg",
        "g": (1,),
        "h": [],
        "i": "a=b",
        "k": True,
    }
    assert parsed("--cfg-options", "a=1", "--cfg-options", "b=2").cfg_options == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a"], "give pairs"),
        (["=1"], "give pairs"),
        (["a..b=1"], "give pairs"),
        ([".a=1"], "give pairs"),
        (["a.=1"], "give pairs"),
        ([" =1"], "give pairs"),
        ([""], "give pairs"),
        (["a="], "no value"),
        (["a=[1,2"], "not balanced"),
        (["a=1)"], "not balanced"),
        (["a=[(1,2])"], "not balanced"),
        (["a=[1,,2]"], "empty place"),
        (["a=,1"], "empty place"),
        (["a={'b':1}"], "key by key"),
        (["a=dict(b=1)"], "key by key"),
        (["a=1", "a=2"], "given twice"),
        (["a=1", "a.b=2"], "set the same"),
        (["a.b=1", "a=2"], "set the same"),
        (["a=" + "[" * 2000 + "]" * 2000], "give pairs"),
    ],
)
def test_junk_pairs(words, message):
    with pytest.raises(UserError, match=message) as refusal:
        parsed("--cfg-options", *words)
    assert "--cfg-options" in str(refusal.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--work_dir", "x"], "did you mean '--work-dir'"),
        (["--work-dri=x"], "did you mean '--work-dir'"),
        (["--kind", "vitt"], "did you mean 'vit'"),
        (["--work-dir"], "expected one argument"),
        (["--cfg-options"], "expected at least one argument"),
    ],
)
def test_wrong_flags(words, message):
    with pytest.raises(UserError, match=message) as refusal:
        parsed(*words)
    assert "tool --help" in str(refusal.value)


@pytest.fixture
def config():
    return Config(
        {
            "model": {"type": "A", "backbone": {"type": "B", "depth": 2, "out_indices": [1, 2]}},
            "train_cfg": {"max_epochs": 3},
            "env_cfg": {"cudnn_benchmark": False},
            "transforms": [{"type": "T"}, {"type": "U"}],
            "nothing": None,
        }
    )


@pytest.mark.parametrize(
    "key",
    [
        "model.backbone.depth",
        "model.backbone.rank",  # B takes it, or refuses it
        "model.neck.width",
        "transforms.1.size",
        "train_cfg.max_epochs",
        "randomness.seed",  # the Runner's, not in this config
        "resume",
        "nothing.x",
        "env_cfg.mp_cfg.mp_start_method",
    ],
)
def test_options_that_reach_something(config, key):
    check_options(config, {key: 1})


def test_sections_and_lists_may_be_replaced_by_their_like(config):
    check_options(config, {"train_cfg": None, "model": {"type": "C"}, "model.backbone": "C", "transforms": []})


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("modle.backbone.depth", "did you mean 'model'"),
        ("optimizer.lr", "no such field"),
        ("data_root", "nothing follows from it in a config without `suite`"),
        ("model.backbone.depth.x", "model.backbone.depth is 2"),
        ("transforms.first.type", "is a list, and 'first' no place"),
        ("transforms.-1.type", "is a list, and '-1' no place"),
        ("train_cfg", r"a section \(max_epochs\)"),
    ],
)
def test_options_that_reach_nothing(config, key, message):
    with pytest.raises(UserError, match=message) as refusal:
        check_options(config, {key: 1})
    assert f"--cfg-options {key}=1" in str(refusal.value)


def test_a_config_is_read_with_them():
    with pytest.raises(UserError, match="did you mean 'optim_wrapper'"):
        load_config("configs/mini/lora_nano_vit.py", "digits", {"optim_wraper.optimizer.lr": 1})


@pytest.mark.parametrize("text", [b"\xff\xfe", b"a = 1 / 0", b"a = (", b"a = 1\0", b"_base_ = 'b.py'"])
def test_a_config_that_cannot_be_read(tmp_path, text):
    path = tmp_path / "a.py"
    path.write_bytes(text)
    with pytest.raises(UserError, match=rf"^config {path}"):
        load_config(path)


@pytest.mark.parametrize(
    ("text", "right"), [("0", True), ("4294967295", True), ("-1", False), ("4294967296", False), ("x", False)]
)
def test_seeds(text, right):
    parser = Parser(prog="tool")
    add_config_arguments(parser)
    add_run_arguments(parser, "the config's")
    if right:
        assert parser.parse_args(["a.py", f"--seed={text}"]).seed == int(text)
    else:
        with pytest.raises(UserError, match=f"argument --seed: '{text}' is no seed: a whole number from 0"):
            parser.parse_args(["a.py", f"--seed={text}"])
