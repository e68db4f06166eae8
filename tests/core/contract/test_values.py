"""Hyper-parameters: what is no value of a field is refused by every method, and what is one is taken."""

import dataclasses
import types
import typing

import numpy as np
import pytest
import torch
from support.hosts import build

import vpeft
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.contract.build import build_method, build_methods
from vpeft.core.contract.options import OPTIONS
from vpeft.core.contract.search_space import Range
from vpeft.core.contract.values import OF_NAME, OF_TYPE, type_hints
from vpeft.registry import PEFT_METHODS

NAN, INF = float("nan"), float("inf")
JUNK = {
    int: ["8", 2.5, True, NAN, INF, -INF, [8], {"n": 8}, -(10**12), 10**12, np.int64(8)],
    float: ["0.5", True, NAN, INF, -INF, [0.5], {}, -1e300, 1e300, 1j],
    bool: [1, 0, "yes", "False", NAN, [True]],
    str: [3, True, "", "nonsense", "official ", ["official"], NAN, b"official"],
    typing.Literal: [3, True, "", "nonsense", NAN],
    tuple: [3, 0.5, "nonsense", [], [[]], ["nonsense"], [None], [NAN], [True], {"q": 1}],
}
FIELDS = [
    (name, field)
    for name, cls in sorted(PEFT_METHODS.module_dict.items())
    for field in dataclasses.fields(cls)
    if field.name not in OPTIONS
]
IDS = [f"{name}.{field.name}" for name, field in FIELDS]
HOST = "mmpretrain.VisionTransformer"


def kinds(name, field):
    """The types that a field takes, and whether None is one of them."""
    hint = type_hints(PEFT_METHODS.get(name))[field.name]
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    hints = typing.get_args(hint) if union else (hint,)
    return [typing.get_origin(one) or one for one in hints]


def junk(name, field):
    found = kinds(name, field)
    values = [value for kind in found if kind is not type(None) for value in JUNK[kind]]
    if int in found and tuple in found:  # one number, or one for each block
        values = [value for value in values if value not in ([8], 3)]
    return values if type(None) in found else [*values, None]


@pytest.fixture(scope="module")
def hosts():
    return {False: build(HOST, torch.float32), True: build(f"{HOST}/clips", torch.float32)}


@pytest.fixture
def host(hosts, request):
    """The tiny ViT, or for a method of frames the same on clips."""
    name = request.node.callspec.params.get("name") if hasattr(request.node, "callspec") else None
    return hosts[bool(name and PEFT_METHODS.get(name).needs_frames)]


def state(model):
    return (
        {key: value.clone() for key, value in model.state_dict().items()},
        {key: param.requires_grad for key, param in model.named_parameters()},
        [name for name, _ in model.named_modules()],
    )


@pytest.mark.parametrize(("name", "field"), FIELDS, ids=IDS)
def test_junk_is_refused_and_the_model_stays_as_it_was(name, field, host):
    before = state(host)
    for value in junk(name, field):
        with pytest.raises(vpeft.UserError) as refusal:
            vpeft.attach(host, {"type": name, field.name: value})
        said = str(refusal.value)
        assert name in said, value
        assert field.name in said, value
        assert "\n" not in said, value
        assert get_adaptation(host) is None, value
    after = state(host)
    assert before[1:] == after[1:]
    assert all(torch.equal(value, after[0][key]) for key, value in before[0].items())


@pytest.mark.parametrize(("name", "field"), FIELDS, ids=IDS)
def test_numbers_end_at_their_limits(name, field, host):
    cls = PEFT_METHODS.get(name)
    for kind in (int, float):
        if kind in kinds(name, field):
            low, high = {**OF_NAME, **cls.limits}.get(field.name, OF_TYPE[kind])
            for value in (kind(low), kind(high)):
                build_method({"type": name, field.name: value})
            for value in (low - 1, high + 1):
                with pytest.raises(vpeft.UserError, match=rf"{field.name}={kind(value)!r} must be .*from .* to "):
                    build_method({"type": name, field.name: kind(value)})


@pytest.mark.parametrize("name", sorted(PEFT_METHODS.module_dict))
def test_what_a_search_may_try_is_legal(name):
    cls = PEFT_METHODS.get(name)
    assert build_method(cls()) == build_method(build_method(name).config()) == cls()
    for field, values in cls.space.items():
        if field in {f.name for f in dataclasses.fields(cls)}:
            for value in [values.low, values.high] if isinstance(values, Range) else values:
                build_method({"type": name, field: value})


def test_a_built_method_is_looked_at_too(host):
    with pytest.raises(vpeft.UserError, match=r"^LoRA: rank='8' must be a whole number from 1 to 65536\.$"):
        vpeft.attach(host, PEFT_METHODS.get("LoRA")(rank="8"))


def test_a_whole_number_is_a_number():
    assert build_method({"type": "LoRA", "alpha": 16}).alpha == 16
    assert build_method({"type": "LoRA", "targets": ["q", "v"]}).targets == ("q", "v")


@pytest.mark.parametrize("method", [None, 3, [], [[]], [None], {"type": None}, {"type": ["LoRA"]}, {}, ["LoRA", 3]])
def test_what_is_no_method(method, host):
    with pytest.raises(vpeft.UserError, match="method"):
        build_methods(method)
    with pytest.raises(vpeft.UserError, match="method"):
        vpeft.attach(host, method)


def test_a_fault_of_the_second_method_takes_the_first_off_too(host):
    before = state(host)
    with pytest.raises(vpeft.UserError, match="bottleneck"):
        vpeft.attach(host, [{"type": "VPTDeep", "prompt_length": 2}, {"type": "AdaptFormer", "bottleneck": 65}])
    assert before[1:] == state(host)[1:]


def test_a_method_without_named_starts_says_which_have_some():
    with pytest.raises(
        vpeft.UserError, match=r"^LoRA has no other start than its own: init= chooses one of .*ARC, .*SSF"
    ):
        build_method({"type": "LoRA", "init": "official"})
    with pytest.raises(vpeft.UserError, match=r"^SSF: unknown init 'oficial': did you mean 'official'"):
        vpeft.attach(build(HOST, torch.float32), {"type": "SSF", "init": "oficial"})


def test_a_method_calls_nothing_as_an_option():
    method = PEFT_METHODS.get("LoRA")
    with pytest.raises(vpeft.UserError, match=r"^Mine.blocks: blocks= is an option of every method; call it otherwise"):
        type("Mine", (method,), {"blocks": lambda self, host: host.blocks})
    with pytest.raises(vpeft.UserError, match=r"^Mine.extra: extra= is an option"):
        type("Mine", (method,), {"__annotations__": {"extra": int}})
