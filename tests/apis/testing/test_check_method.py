"""A stranger's method is gone through as ours are, and what is wrong with one is said in words that mend it."""

import ast
import re
import runpy
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from vpeft.algorithms import Method
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS
from vpeft.testing import CHECKS, HANDFUL, ContractError, check_method

ROOT = Path(__file__).parents[3]
OUTSIDE = ROOT / "tests/support/outside/direction_and_size.py"
HOST = ["torchvision.VisionTransformer"]
VIT = "timm.VisionTransformer"


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    monkeypatch.setattr(PEFT_METHODS, "_module_dict", dict(PEFT_METHODS.module_dict))


class Scale(nn.Module):
    """``gamma * y``."""

    def __init__(self, dim):
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.ones_(self.gamma)

    def forward(self, y, flow):
        return y * self.gamma

    def affine(self):
        return self.gamma, None


class Scaled(Method):
    """``gamma * branch(x)``; what is wrong is what a test changes."""

    category = "reparameter"
    paper = "None"
    mergeable = True
    module = Scale

    def build(self, host):
        for block in host.blocks:
            block.place("mlp_branch", "after", self.module(block.dim), "mlp")

    def count(self, host):
        return sum(block.dim for block in host.blocks)


def method(module=Scale, **changed):
    """The method with another module or other members, registered."""
    cls = type("Strange", (Scaled,), {"__doc__": Scaled.__doc__, "module": module, **changed})
    return PEFT_METHODS.register_module(force=True)(dataclass(kw_only=True)(cls))


def fault(cls, *checks, hosts=HOST):
    with pytest.raises(ContractError) as raised:
        check_method(cls, hosts=hosts, checks=checks or None)
    return str(raised.value)


def test_an_outside_file_passes_on_the_handful():
    report = check_method(runpy.run_path(str(OUTSIDE))["DirectionDoRA"])
    assert report.method == "DirectionDoRA"
    assert report.failures == []
    assert report.accepted == [host for host in HANDFUL if host not in report.missing]
    assert len(report.accepted) >= 5
    results = {(one.host, one.check): one.result for one in report.checked}
    assert {results[VIT, check] for check in CHECKS} == {"passed"}
    assert f"{VIT}: {len(CHECKS)} passed" in str(report)


def test_the_outside_file_is_short_and_uses_what_the_page_says():
    text = OUTSIDE.read_text()
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(lines) < 66
    page = (ROOT / "docs/adding_a_method.md").read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("vpeft"):
            assert f"from {node.module} import" in page
            assert all(re.search(rf"\b{name.name}\b", page) for name in node.names)
    for used in (".weight", "block.sites", "block.size(", "block.place(", "need_width", "affine", "reset_parameters"):
        assert used in text, used
        assert used in page, used


def test_a_method_without_fault_passes_and_the_report_says_where():
    report = check_method(method(), hosts=HOST)
    assert report.accepted == HOST
    assert {one.result for one in report.checked} == {"passed", "not here"}


def test_a_count_that_is_wrong():
    said = fault(method(count=lambda self, host: 7))
    assert "Strange trains 192 parameters of this torchvision.VisionTransformer, and its count() says 7" in said
    assert said.count("\n") == 1


def test_a_tensor_without_gradient():
    class Cut(Scale):
        def forward(self, y, flow):
            return y * self.gamma.detach()

    said = fault(method(Cut), "2_gradients_and_steps")
    assert re.search(r"encoder_layer_0\.peft\.strange\.mlp\.gamma, .* are trained and got no gradient", said)
    assert "detach" in said


@pytest.mark.parametrize("honest", [True, False])
def test_a_gradient_of_what_changes_nothing(honest):
    class Estimated(Scale):
        """A second vector, which has a gradient and no effect beside the first, which has both."""

        def __init__(self, dim):
            super().__init__(dim)
            self.idle = nn.Parameter(torch.zeros(dim))

        def forward(self, y, flow):
            return y * (self.gamma + (self.idle if honest else self.idle - self.idle.detach()))

        def affine(self):
            return self.gamma + self.idle * honest, None

    def count(self, host):
        return 2 * sum(block.dim for block in host.blocks)

    cls = method(Estimated, count=count)
    if honest:
        check_method(cls, hosts=HOST, checks=["no_silent_bypass"])
    else:
        said = fault(cls, "no_silent_bypass")
        assert re.search(r"encoder_layer_0\.peft\.strange\.mlp\.idle is trained and no change of it changes the", said)


def test_a_merge_that_is_wrong():
    class Off(Scale):
        def affine(self):
            return self.gamma + 1, None

    said = fault(method(Off), "4_merge")
    assert "merged weights compute another output: the largest difference is" in said
    assert "affine() of Off (block 0, site mlp_branch, after) does not say what its forward computes" in said


def test_a_merge_that_leaves_a_module():
    class Bent(Scale):
        affine = property()

        def forward(self, y, flow):
            return torch.tanh(y * self.gamma - 1) + 1

    said = fault(method(Bent, identity_at_start=False), "4_merge")
    assert "merging leaves strange in place: give every placed module affine() -> (M, m), or set mergeable" in said


def test_state_between_passes():
    class Remembers(Scale):
        last = None

        def forward(self, y, flow):
            if self.last is not None:
                y = y + self.last
            self.last = y.mean().item()
            return y * self.gamma

    said = fault(method(Remembers), "passes_apart")
    assert "the same input gives another output after a pass of another one (eval mode)" in said
    assert "A pass changes Remembers.last." in said
    assert "flow.state" in said


def test_a_tensor_that_no_file_stores():
    class Drawn(Scale):
        def __init__(self, dim):
            super().__init__(dim)
            self.mask = torch.rand(dim) + 0.5

        def forward(self, y, flow):
            return y * self.gamma * self.mask.to(y)

    said = fault(method(Drawn, identity_at_start=False, mergeable=False), "5_files_and_detach")
    assert "saved and loaded under another seed, the output is another: the largest difference is" in said
    assert "No file stores Drawn.mask." in said
    assert "register_buffer" in said


def test_starts_are_bits_or_rounding_or_others():
    class Half(Scale):
        def reset_parameters(self):
            nn.init.constant_(self.gamma, 0.5)

    class Almost(Scale):
        def forward(self, y, flow):
            return (y * 3) * (self.gamma / 3)

    said = fault(method(Half), "1_start")
    assert "identity_at_start = True says that the output at the start is bit-equal to the frozen host's" in said
    assert "The first module that changes what passes: block 0, site mlp_branch, after, by" in said
    assert "state identity_at_start = False." in said
    check_method(method(Half, identity_at_start=False), hosts=HOST, checks=["1_start"])
    assert 'state identity_at_start = "rounding".' in fault(method(Almost), "1_start")
    check_method(method(Almost, identity_at_start="rounding"), hosts=HOST, checks=["1_start"])
    check_method(method(identity_at_start="bits"), hosts=HOST, checks=["1_start"])
    check_method(method(identity_at_start="rounding"), hosts=HOST, checks=["1_start"])
    said = fault(method(identity_at_start=False), "1_start")
    assert said.endswith("it is bit-equal to it. What to do: state identity_at_start = True.")


def test_images_of_a_batch_that_mix():
    class Mixes(Scale):
        def forward(self, y, flow):
            return (y - y.mean(0)) * self.gamma

    said = fault(method(Mixes, identity_at_start=False), "images_apart")
    assert "an image's output depends on the others of its batch: the largest difference is" in said


def test_a_memory_class_that_does_not_hold():
    said = fault(method(memory="M0"), "6_memory_class")
    assert "memory = 'M0' says that no gradient enters a block; of the blocks' outputs" in said
    assert "memory is 'M7': state one of M0, M1" in fault(method(memory="M7")).replace("Strange.", "")


def test_two_modules_of_one_name_are_refused():
    def twice(self, host):
        for site in ("attn_branch", "mlp_branch"):
            host.blocks[0].place(site, "after", Scale(host.blocks[0].dim), "scale")

    assert "strange: the name 'scale' is taken at block 0: a fault of the method" in fault(method(build=twice))

    def odd(self, host):
        host.blocks[0].place("attn_branch", "after", Scale(host.blocks[0].dim), "keys")

    assert "strange: 'keys' is no name that torch's ModuleDict takes, at block 0" in fault(method(build=odd))


def test_a_taken_name_is_refused_in_one_line():
    @dataclass(kw_only=True)
    class LoRA(Scaled):
        """Another."""

    with pytest.raises(UserError) as raised:
        PEFT_METHODS.register_module()(LoRA)
    said = str(raised.value)
    assert said.startswith("the PEFT method 'LoRA' is registered already, by vpeft.algorithms.reparameter.lora.LoRA: ")
    assert "\n" not in said
    assert PEFT_METHODS.get("LoRA") is not LoRA
    PEFT_METHODS.register_module(force=True)(LoRA)
    assert PEFT_METHODS.get("LoRA") is LoRA


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"category": "magic"}, "Strange.category is 'magic': state one of baseline, adapter"),
        ({"paper": ""}, "Strange names no paper"),
        ({"identity_at_start": "nearly"}, "Strange.identity_at_start is 'nearly'"),
        ({"__annotations__": {"rank": "int"}}, "Strange.rank has no default"),
        ({"__annotations__": {"rank": "Whole"}, "rank": 4}, "the type hint of Strange.rank names what is not there"),
        ({"__annotations__": {"count": "int"}, "count": 4}, "Strange.count hides Method.count"),
        ({"space": {"rang": [1]}}, "Strange.space names 'rang', which is no hyper-parameter"),
    ],
)
def test_what_a_class_states(changed, words):
    with pytest.raises(ContractError, match=re.escape(words)):
        check_method(method(**changed), hosts=HOST)


def test_classes_that_are_not_ready():
    with pytest.raises(UserError, match=r"Scaled is not registered: put @PEFT_METHODS.register_module\(\)"):
        check_method(Scaled)
    plain = PEFT_METHODS.register_module()(type("Plain", (Scaled,), {"__doc__": "Plain."}))
    with pytest.raises(ContractError, match="Plain is no dataclass of its own"):
        check_method(plain)


def test_refusals_name_the_host():
    def refuses(self, host):
        raise UserError("not on this one")

    assert "a refusal has to name the host, torchvision.VisionTransformer" in fault(method(check=refuses))

    def names(self, host):
        raise UserError(f"not on {host.registered_name()}")

    said = fault(method(check=names))
    assert said.startswith("Strange attaches to none of the tiny backbones that are here:")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"hosts": ["torchvision.VisonTransformer"]}, "no tiny backbone 'torchvision.VisonTransformer': did you mean"),
        ({"hosts": ["timm.VisionTransformer/nothing"]}, "no tiny backbone 'timm.VisionTransformer/nothing'"),
        ({"checks": ["1_stat"]}, "no check '1_stat' of a method: did you mean '1_start'"),
    ],
)
def test_what_does_not_exist_is_refused(given, words):
    with pytest.raises(UserError, match=re.escape(words)):
        check_method("LoRA", **given)


def test_a_method_of_frames_is_gone_through_on_clips():
    report = check_method("ST-Adapter", checks=["3_parameter_formula"])
    assert report.accepted == ["timm.VisionTransformer/clips", "mmpretrain.VisionTransformer/clips"]


def test_hosts_whose_library_is_missing(monkeypatch):
    monkeypatch.setattr("vpeft.apis.testing.contract.find_spec", lambda name: None if name == "timm" else name)
    report = check_method("BitFit", checks=["3_parameter_formula"])
    assert report.missing == {name: "timm" for name in HANDFUL if name.startswith("timm.")}
    assert f"{VIT}: not gone through, timm is not installed" in str(report)
    with pytest.raises(UserError, match="timm is not installed"):
        check_method("BitFit", hosts=[VIT])
