"""The contract of every registered method on hosts that a design chooses (``support/design.py``).

The whole matrix, with every variant of a host, is ``test_catalogue.py``'s. There a method may refuse a host, with a
message that names it.
"""

import copy

import pytest
import torch
from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing
from support import refusals
from support.design import chosen_pairs
from support.hosts import (
    TINY,
    again,
    build,
    head_prefixes,
    inputs,
    key_biases,
    loss,
    perturb,
    seeded,
    tokens,
    trained,
)

import vpeft
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.adaptation.report import parameter_report
from vpeft.registry import PEFT_METHODS

PAIRS = chosen_pairs()
pairs = pytest.mark.parametrize(("host", "method"), PAIRS)


@pytest.fixture(autouse=True)
def _one_kernel_of_attention():
    """Torch's own attention over frozen weights alone takes a kernel that rounds in another way."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(before)


def attached(host, method, dtype=torch.float64):
    """A tiny plain host and the same with the method attached; the same base parameters of both are trained."""
    plain, model = again(host, dtype), adapted(host, method, dtype)
    ask_like(plain, model)
    return plain, model


def adapted(host, method, dtype=torch.float64, **options):
    """A tiny host with the method attached."""
    model = build(host, dtype, **options) if options else again(host, dtype)
    seeded(11)
    return refusals.unless_refused(lambda: vpeft.attach(model, method), host.split("/")[0])


def ask_like(plain, model):
    """Let the same parameters ask for a gradient: torch's products round differently where a weight does."""
    asks = {key: p.requires_grad for key, p in model.named_parameters()}
    for key, param in plain.named_parameters():
        param.requires_grad_(asks[key])


def images(host, dtype=torch.float64, shape=None, count=2):
    return inputs(host, count, dtype, shape=shape)


def stream(out):
    """What a block gives to the next one; some give attention weights beside it."""
    return out[0] if isinstance(out, tuple) else out


def without_gradient(model, x):
    """Trained tensors that a few passes give none, so that no chance of DropPath and dropout hides one."""
    unfelt = key_biases(model)
    own = {key: param for key, param in trained(model).items() if key not in unfelt}
    for seed in range(3):
        loss(tokens(model, x, seed=seed)).backward()
        missing = [key for key, param in own.items() if param.grad is None or not param.grad.any()]
        if not missing:
            break
    return missing


@pairs
def test_1_start(host, method):
    plain, model = attached(host, method)
    identity = PEFT_METHODS.get(method).identity_at_start
    with torch.no_grad():
        # E3VA adds up the branches itself; behind RepAdapter rows of a shared weight run apart. Both round otherwise.
        if not (method in ("E3VA", "RepAdapter") and "/parallel" in host):
            assert torch.equal(tokens(plain, images(host)), tokens(model, images(host))) == identity
    if identity:  # a product of which one side asks for a gradient is cut otherwise by torch, and rounds otherwise
        torch.testing.assert_close(tokens(model, images(host)), tokens(plain, images(host)), rtol=1e-12, atol=1e-12)


@pairs
def test_2_gradients_and_steps(host, method):
    model = adapted(host, method)
    perturb(model)
    model.train()
    own, before = trained(model), {k: p.detach().clone() for k, p in model.named_parameters()}
    unfelt, heads = key_biases(model), head_prefixes(model)
    rest = {k: p for k, p in model.named_parameters() if not (heads and k.startswith(heads))}
    if own:
        assert without_gradient(model, images(host)) == []
    assert [k for k, p in rest.items() if k not in own and p.grad is not None] == []
    if own:
        # Heads inside are trained too.
        optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        for step in range(3):
            optimiser.zero_grad()
            loss(tokens(model, images(host), seed=step)).backward()
            optimiser.step()
            if not any(torch.equal(p, before[k]) for k, p in own.items()):
                break
    for key, param in rest.items():
        if key not in unfelt:
            assert torch.equal(param, before[key]) == (key not in own), key


@pairs
def test_3_parameter_formula(host, method):
    model = adapted(host, method, torch.float32)
    adaptation = get_adaptation(model)
    (built,) = adaptation.methods.values()
    real = sum(p.numel() for p in trained(model).values())
    assert built.count(adaptation.host) == real
    report = parameter_report(model)
    assert report.trainable_without_head == real
    assert sum(row[-1] for row in (*report.sites, *report.existing)) == real


@pairs
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=["f64", "f32"])
def test_4_merge(host, method, dtype, tolerance):
    plain, model = attached(host, method, dtype)
    perturb(model)
    out = tokens(model, images(host, dtype))
    (built,) = get_adaptation(model).methods.values()
    if built.partly_mergeable:
        assert vpeft.merge(model) == [built.key()]
        assert (tokens(model, images(host, dtype)) - out).abs().max() <= tolerance * out.abs().max()
        vpeft.unmerge(model)
        assert torch.equal(tokens(model, images(host, dtype)), out)
        return
    if not built.mergeable:
        keys = {k: v.clone() for k, v in model.state_dict().items()}
        with pytest.raises(vpeft.UserError, match="cannot be merged"):
            vpeft.merge(model)
        assert all(torch.equal(v, keys[k]) for k, v in model.state_dict().items())
        return
    refusal, left = None, []
    try:
        left = vpeft.merge(model)
    except vpeft.UserError as error:  # keys that matter and have no bias to take a shift
        refusal = str(error)
    if refusal is not None:
        assert "no bias to merge a shift into" in refusal or "no bias to merge the shift into" in refusal
        assert torch.equal(tokens(model, images(host, dtype)), out)
        pytest.skip(refusal)
    assert left == []
    scale = out.abs().max()
    assert (tokens(model, images(host, dtype)) - out).abs().max() <= tolerance * scale
    state = vpeft.plain_state_dict(model)
    assert state.keys() == plain.state_dict().keys()
    plain.load_state_dict(state, strict=False)  # mmpretrain's Swin V2 throws buffers of its own file away
    assert (tokens(plain, images(host, dtype)) - out).abs().max() <= tolerance * scale
    if get_adaptation(model).merged:
        with pytest.raises(vpeft.UserError, match="merged already"):
            vpeft.merge(model)
        vpeft.unmerge(model)
        assert torch.equal(tokens(model, images(host, dtype)), out)
    with pytest.raises(vpeft.UserError, match="not merged"):
        vpeft.unmerge(model)


@pairs
def test_5_detach_and_files(host, method, tmp_path):
    plain, model = attached(host, method, torch.float32)
    other = copy.deepcopy(plain)  # LeViT keeps something of a pass that cannot be copied
    keys, base_out = list(plain.state_dict()), tokens(plain, images(host, torch.float32))
    perturb(model)
    x = images(host, torch.float32)
    out = tokens(model, x)
    with vpeft.disabled(model):
        assert torch.equal(tokens(model, x), base_out)
    assert torch.equal(tokens(model, x), out)
    vpeft.save_adapter(model, tmp_path / "a.safetensors")

    seeded(99)
    vpeft.load_adapter(other, tmp_path / "a.safetensors")
    assert torch.equal(tokens(other, x), out)
    assert other.state_dict().keys() == model.state_dict().keys()
    state = model.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in other.state_dict().items())

    heads = head_prefixes(model)
    vpeft.detach(model)
    state = model.state_dict()
    assert list(state) == keys
    assert type(model) is type(plain)
    for key, value in plain.state_dict().items():
        if not (heads and key.startswith(heads)):
            assert torch.equal(state[key], value), key
    assert all(p.requires_grad for p in model.parameters())
    ask_like(model, plain)
    assert torch.equal(tokens(model, x), base_out)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pairs
def test_6_memory_class(host, method):
    model = adapted(host, method)
    memory = PEFT_METHODS.get(method).memory
    assert memory in ("M0", "M1", "M1w", "M2", "M2w")
    seen = []
    for block in get_adaptation(model).host.blocks:
        block.module.register_forward_hook(lambda m, args, out: seen.append(stream(out).requires_grad))
    tokens(model.train(), images(host))
    if memory == "M0":
        assert not any(seen)
        inside = [item for b in get_adaptation(model).host.blocks for item in b.module.named_modules()]
        assert not any(m.training for name, m in inside if "peft" not in name.split("."))
    elif memory.startswith("M1"):
        assert not seen[0]
        assert seen[-1]
    else:  # from the first block on in which anything is placed: prompts enter those with attention alone
        placed = [any(site.entries for site in b.sites.values()) for b in get_adaptation(model).host.blocks]
        assert all(seen[placed.index(True) if any(placed) else 0 :])
    existing = get_adaptation(model).trained_parameters()
    assert any(p.block and p.role == "weight" for p in existing) == memory.endswith("w")


@pairs
def test_7_checkpointing(host, method):
    model = adapted(host, method)
    perturb(model)
    if not trained(model):
        pytest.skip("nothing of the backbone is trained")
    again = copy.deepcopy(model)
    names = {id(m): n for n, m in again.named_modules()}
    blocks = [names[id(b.module)] for b in get_adaptation(again).host.blocks]
    turn_on_activation_checkpointing(again, blocks)
    for m in (model, again):
        seeded(1)
        loss(tokens(m, images(host))).backward()
    copied = trained(again)
    for key, param in trained(model).items():
        grad = copied[key].grad
        assert grad is not None, key
        torch.testing.assert_close(grad, param.grad, rtol=1e-9, atol=1e-9)


@pairs
def test_7_autocast(host, method):
    model = adapted(host, method, torch.float32)
    perturb(model)
    x = images(host, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = tokens(model.train(), x)
    assert torch.isfinite(out).all()
    if trained(model):
        loss(out.float()).backward()
        missing = [k for k, p in trained(model).items() if p.grad is None or not torch.isfinite(p.grad).all()]
        assert not missing


@pytest.mark.parametrize(("host", "method"), [pair for pair in PAIRS if "other-size" in TINY[pair[0]].variants])
def test_7_other_input_size(host, method):
    options, shape = TINY[host].variants["other-size"]
    model = adapted(host, method, **options)
    perturb(model)
    out = tokens(model.train(), images(host, shape=shape))
    assert torch.isfinite(out).all()
    if trained(model):
        assert without_gradient(model, images(host, shape=shape)) == []


def inside_blocks(model):
    """Names of trained tensors with what they are called inside their block, alike in every block of a class."""
    names = {id(m): n for n, m in model.named_modules()}
    blocks = {f"{names[id(b.module)]}.": type(b.module).__name__ for b in get_adaptation(model).host.blocks}
    found = {}
    for key in trained(model):
        block = next((block for block in blocks if key.startswith(block)), "")
        found[key] = blocks.get(block), key.removeprefix(block)
    return found


@pairs
def test_no_silent_bypass(host, method):
    """Every trained tensor by itself changes the output; what decides in steps, by a large change at the latest.

    A gradient says so of all at once. That it is the output's own, and no estimate, shows where a tensor is changed:
    the first of each name in blocks of a class, and all that have none.
    """
    model = adapted(host, method)
    perturb(model)
    x, own, unfelt = images(host, count=1), trained(model), key_biases(model)
    if own:
        loss(tokens(model, x)).backward()
    with torch.no_grad():
        out = tokens(model, x)

    @torch.no_grad()
    def changes(param, size):
        kept = param.detach().clone()
        seeded(5)
        param.add_(torch.randn_like(param) * size)
        other = tokens(model, x)
        param.copy_(kept)
        return not torch.equal(other, out)

    changed = set()
    for key, name in inside_blocks(model).items():
        if key in unfelt or (name in changed and own[key].grad is not None and own[key].grad.any()):
            continue
        assert any(changes(own[key], size) for size in (0.5, 100.0, -100.0)), key
        changed.add(name)


@pairs
def test_images_of_a_batch_do_not_mix(host, method):
    model = adapted(host, method)
    perturb(model)
    x = images(host, count=3)
    alone = torch.cat([tokens(model, x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(tokens(model, x), alone, rtol=1e-9, atol=1e-9)


@pairs
def test_copies_are_independent(host, method):
    model = adapted(host, method)
    perturb(model)
    out = tokens(model, images(host))
    other = copy.deepcopy(model)
    perturb(other, 0.5)
    assert torch.equal(tokens(model, images(host)), out)
    if trained(other):
        assert not torch.equal(tokens(other, images(host)), out)


def test_class_attributes_are_stated():
    from vpeft.core.contract.method import CATEGORIES

    for name, cls in PEFT_METHODS.module_dict.items():
        assert cls.category in CATEGORIES, name
        assert cls.paper, name
        assert cls.__doc__, name
        assert ("Not verified" in cls.__doc__) == bool(cls.unverified), name
        assert not cls.unverified or cls.unverified in cls.__doc__, name
