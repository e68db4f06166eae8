"""What a library offers beside a forward pass goes on working on an adapted backbone."""

import copy

import pytest
import torch
from support import refusals
from support.hosts import TINY, _tensors, build, inputs, loss, perturb, seeded, tiny_of, tokens, trained
from torch import nn

import vpeft
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.backbones.find import find_host


def other_size(model, x):
    """timm: the backbone is set to another size of input."""
    x = torch.cat([x, x], 2)
    model.set_input_size(img_size=tuple(x.shape[-2:]))
    return tokens(model, x)


def features(model, x):
    """What ``features_only`` of a ViT makes of the model; it takes away what the maps do not need."""
    from timm.models._features import FeatureGetterNet

    return FeatureGetterNet(model, out_indices=(0, -1))(x)


def attentions(model, x):
    model.set_attn_implementation("eager")
    return model(x, output_attentions=True).attentions


WAYS = {
    "forward_intermediates": lambda model, x: model.forward_intermediates(x),
    "stop_early": lambda model, x: model.forward_intermediates(x, [0], stop_early=True, intermediates_only=True),
    "prefix": lambda model, x: model.forward_intermediates(x, return_prefix_tokens=True, norm=True),
    "get_intermediate_layers": lambda model, x: model.get_intermediate_layers(x, n=2, reshape=True),
    "features_only": features,
    "set_input_size": other_size,
    "output_hidden_states": lambda model, x: model(x, output_hidden_states=True).hidden_states,
    "output_attentions": attentions,
    "interpolate_pos_encoding": lambda model, x: model(torch.cat([x, x], -1), interpolate_pos_encoding=True),
}
HOSTS = [name for name in TINY if name.startswith(("timm.", "transformers.", "open_clip."))]
#: These change the model, so that it is no more the one that was adapted; these give what prompts change.
CHANGES, SEES_PROMPTS = ("set_input_size", "features_only"), ("output_attentions",)
#: Ways on a copy of the model, with the method that it needs to have for them.
ON_A_COPY = {
    "set_input_size": "set_input_size",
    "features_only": "forward_intermediates",
    "output_attentions": "set_attn_implementation",
}
#: What a library says where a class, or one of its options, does not offer a way.
NOT_OFFERED = (AttributeError, TypeError, UnboundLocalError, AssertionError, ValueError, RuntimeError)


@pytest.fixture(autouse=True)
def _one_kernel_of_attention():
    """Torch's own attention over frozen weights alone takes a kernel that rounds in another way."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(before)


def run(way, model, x):
    seeded(1)
    if way in ON_A_COPY:
        getattr(model, ON_A_COPY[way])  # a copy takes as long as a pass
        model = copy.deepcopy(model)
    with torch.no_grad():
        return list(_tensors(WAYS[way](model, x)))


def offered(plain, x):
    """The ways of a plain backbone with what they give."""
    found = {}
    for way in WAYS:
        try:
            found[way] = run(way, plain, x)
        except NOT_OFFERED:
            continue
    return {way: out for way, out in found.items() if out}


def goes_on(host, **options):
    plain = build(host, **options)
    shape = next(shape for given, shape in tiny_of(host).variants.values() if given == options)
    x = inputs(host, dtype=torch.float64, shape=shape)
    neutral = vpeft.attach(copy.deepcopy(plain), "LoRA")
    for key, param in neutral.named_parameters():  # torch's products round differently where a weight asks for one
        if ".peft." not in key:
            plain.get_parameter(key).requires_grad_(param.requires_grad)
    changed = perturb(copy.deepcopy(neutral))
    merged = copy.deepcopy(plain)
    ways = offered(plain, x)
    if set(ways) - set(CHANGES):
        vpeft.merge(whole := copy.deepcopy(changed))
        merged.load_state_dict(vpeft.plain_state_dict(whole), strict=False)
    for way, out in ways.items():
        mine = run(way, neutral, x)
        assert len(mine) == len(out), way
        assert all(torch.equal(a, b) for a, b in zip(mine, out, strict=True)), way
        if way not in CHANGES:
            mine = run(way, changed, x)
            torch.testing.assert_close(mine, run(way, merged, x), rtol=1e-8, atol=1e-8, msg=way)
            if way != "stop_early":  # the first map may be a stem's, which nothing is attached to
                assert not all(torch.equal(a, b) for a, b in zip(mine, out, strict=True)), way
    return plain, x, ways


@pytest.mark.parametrize("host", HOSTS)
def test_ways_of_the_library(host):
    plain, x, ways = goes_on(host)
    if not ways:
        pytest.skip("the library offers nothing else")
    prompted = refusals.attached(host, plain, {"type": "VPTDeep", "prompt_length": 3})
    for way, out in ways.items():
        if way not in SEES_PROMPTS:
            shapes = [one.shape for one in run(way, prompted, x)]
            assert shapes == [one.shape for one in out], way


VARIANTS = [(host, name) for host, stated in TINY.items() for name in stated.variants if name != "plain"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "variant"), [one for one in VARIANTS if one[0].startswith(("timm.", "transformers."))]
)
def test_ways_of_the_library_with_other_options(host, variant):
    goes_on(host, **TINY[host].variants[variant][0])


def test_the_ways_are_found():
    """Where a library changes a name, the tests above would look at nothing."""
    found = {}
    for host in ("timm.VisionTransformer", "timm.SwinTransformer", "transformers.ViTModel"):
        found[host] = set(offered(build(host), inputs(host, dtype=torch.float64)))
    of_maps = {"forward_intermediates", "stop_early", "features_only", "set_input_size"}
    assert found["timm.SwinTransformer"] == of_maps
    assert found["timm.VisionTransformer"] == {*of_maps, "prefix", "get_intermediate_layers"}
    of_transformers = {"output_hidden_states", "output_attentions", "interpolate_pos_encoding"}
    assert found["transformers.ViTModel"] == of_transformers


def checkpoint(model, reentrant):
    """The library's own checkpointing; whether there is one."""
    if hasattr(model, "set_grad_checkpointing"):
        try:
            model.set_grad_checkpointing(True)
        except AssertionError:  # "not supported"
            return False
    elif getattr(model, "supports_gradient_checkpointing", False):
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    else:
        return False
    return True


@pytest.mark.parametrize("host", HOSTS)
def test_the_librarys_own_checkpointing_gives_the_same_gradients(host):
    model = perturb(vpeft.attach(build(host), "LoRA")).train()
    x = inputs(host, dtype=torch.float64)
    loss(tokens(model, x)).backward()
    for reentrant in (False, True) if host.startswith("transformers.") else (False,):
        again = copy.deepcopy(model)
        again.zero_grad()
        if not checkpoint(again, reentrant):
            pytest.skip("the library has none")
        runs = []
        last = get_adaptation(again).host.blocks[-1].module
        last.register_forward_pre_hook(lambda *args, runs=runs: runs.append(1))
        refusals.unless_refused(lambda model=again: loss(tokens(model, x)).backward(), "re-entrant checkpointing of")
        assert len(runs) == 2
        copied = trained(again)
        for key, param in trained(model).items():
            torch.testing.assert_close(copied[key].grad, param.grad, rtol=1e-9, atol=1e-9)


def hosts_of_kinds():
    """The first host of every block kind."""
    seen, hosts = set(), []
    for host in TINY:
        kinds = {block.kind for block in find_host(build(host, torch.float32)).blocks}
        hosts += [host] if kinds - seen else []
        seen |= kinds
    return hosts


class Plain(nn.Module):
    """All that a backbone gives, in a tuple."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return tokens(self.model, x)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "every"), [("trace", 1), ("export", 3), pytest.param("export", 1, marks=pytest.mark.catalogue)]
)
def test_merged_backbones_become_programs(program, every):
    for host in hosts_of_kinds()[::every]:
        model = perturb(vpeft.attach(build(host, torch.float32), "LoRA"))
        vpeft.merge(model)
        whole, x = Plain(model).eval(), inputs(host)
        with torch.no_grad():
            if program == "trace":
                made = torch.jit.trace(whole, x, check_trace=False)
            else:
                made = torch.export.export(whole, (x,), strict=False).module()
            torch.testing.assert_close(made(x), whole(x), rtol=1e-4, atol=1e-5, msg=host)
