"""What a forward pass knows belongs to the pass: threads, nesting, checkpointing and replicas each have their own."""

import copy
import gc
import threading
import weakref

import pytest
import torch
from support.hosts import build, perturb, tokens
from torch.utils.checkpoint import checkpoint

import vpeft
from vpeft.core.adaptation.find import get_adaptation
from vpeft.errors import UserError

VIT, SWIN = "timm.VisionTransformer", "timm.SwinTransformer"
#: Methods that hand tensors from block to block, that read the size of the map, and that need neither.
STATE = [(VIT, "VPTShallow"), (VIT, "DTL"), (VIT, "LST"), (SWIN, "VPTShallow"), (SWIN, "E3VA"), (SWIN, "DTL+")]
METHODS = [*STATE, (VIT, "Mona"), (SWIN, "Convpass"), (VIT, "LoRA")]
SIZES = ((32, 32), (48, 40))


def adapted(host, method, dtype=torch.float64):
    options = {"dynamic_img_size": True} if host == VIT else {"strict_img_size": False}
    return perturb(vpeft.attach(build(host, dtype, **options), method)).eval()


def images(size=(32, 32), seed=0, batch=2):
    return torch.randn(batch, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def blocks(model):
    return [block.module for block in get_adaptation(model).host.blocks]


def gradients(model, loss):
    params = [p for p in model.parameters() if p.requires_grad]
    return torch.autograd.grad(loss, params, allow_unused=True)


def checkpointed(module, **options):
    """Run a module under activation checkpointing from now on."""
    plain = module.forward
    module.forward = lambda *args: checkpoint(plain, *args, **options)


def same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b)


def two_losses(model):
    """Two passes of different sizes before one backward, as in a siamese model."""
    return sum(tokens(model, images(size, seed)).square().sum() for seed, size in enumerate(SIZES))


@pytest.mark.parametrize(("host", "method"), METHODS)
def test_every_thread_has_its_own_pass(host, method):
    model, wrong = adapted(host, method), []
    inputs = [images(SIZES[i % 2], i) for i in range(3)]
    with torch.no_grad():
        truth = [model(x) for x in inputs]

    def work(x, expected):
        for _ in range(4):
            with torch.no_grad():
                wrong.append(not torch.equal(model(x), expected))

    threads = [threading.Thread(target=work, args=pair) for pair in zip(inputs, truth, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [False] * 12


@pytest.mark.parametrize("groups", ["blocks", "stages", "whole"])
@pytest.mark.parametrize(("host", "method"), METHODS)
def test_checkpointed_blocks_find_their_pass(host, method, groups):
    model = adapted(host, method)
    want = gradients(model, two_losses(model))
    if groups == "blocks":
        for block in blocks(model):
            checkpointed(block, use_reentrant=False)
    elif groups == "stages" and host == VIT:
        checkpointed(model.blocks, use_reentrant=False)
    elif groups == "stages":
        for stage in model.layers:
            checkpointed(stage.blocks, use_reentrant=False)
    else:
        checkpointed(model, use_reentrant=False)
    same(gradients(model, two_losses(model)), want)


@pytest.mark.parametrize(("host", "method"), [(VIT, "Mona"), (SWIN, "Convpass"), (VIT, "LoRA")])
def test_reentrant_checkpointing_finds_its_pass(host, method):
    model = adapted(host, method)
    first = blocks(model)[0]
    first.register_forward_pre_hook(lambda module, args: (args[0].detach().requires_grad_(), *args[1:]))
    want = gradients(model, two_losses(model))
    for block in blocks(model):
        checkpointed(block, use_reentrant=True)
    for param in model.parameters():
        param.grad = None
    first._forward_pre_hooks.clear()
    embedding = get_adaptation(model).host.backbone.patch_embed
    embedding.register_forward_hook(lambda module, args, output: output.requires_grad_())
    two_losses(model).backward()
    same([p.grad for p in model.parameters() if p.requires_grad], want)


@pytest.mark.parametrize("method", ["VPTShallow", "DTL", "LST"])
def test_reentrant_checkpointing_is_refused_where_tensors_are_handed_on(method):
    model = adapted(VIT, method)
    model.patch_embed.register_forward_hook(lambda module, args, output: output.requires_grad_())
    for block in blocks(model):
        checkpointed(block, use_reentrant=True)
    with pytest.raises(UserError, match=r"hands tensors from block to block.*use_reentrant=False"):
        tokens(model, images()).square().sum().backward()


def test_a_pass_in_another_thread_does_not_disturb_a_backward():
    model = adapted(VIT, "VPTShallow")
    want = gradients(model, two_losses(model))
    for block in blocks(model):
        checkpointed(block, use_reentrant=False)
    loss, found = two_losses(model), []
    worker = threading.Thread(target=lambda: found.append(gradients(model, loss)))
    with torch.no_grad():
        model(images((40, 48), 5))
    worker.start()
    worker.join()
    same(found[0], want)


@pytest.mark.parametrize("inner", ["forward", "forward_features"])
@pytest.mark.parametrize("where", ["block", "qkv", "norm"])
@pytest.mark.parametrize(("host", "method"), STATE)
def test_a_pass_inside_a_pass(host, method, where, inner):
    """A user's hook runs the model on something else, between blocks, inside one, and behind the last."""
    model, depth = adapted(host, method), []
    view = get_adaptation(model).host
    module = {"block": blocks(model)[1], "qkv": view.blocks[2].sites["qkv"].module, "norm": model.norm}[where]
    want = model(images())

    def hook(*_):
        if not depth:
            depth.append(1)
            getattr(model, inner)(images((48, 40), 3, batch=3))

    # In front of vpeft's own hooks.
    handle = module.register_forward_pre_hook(hook, prepend=True)
    assert torch.equal(model(images()), want)
    assert depth
    handle.remove()
    assert view.flow.grid == ((4, 4) if host == VIT else (8, 8))


@pytest.mark.parametrize("method", ["VPTShallow", "DTL", "LST"])
def test_passes_that_take_turns(method):
    """Generators that run one block each."""
    model = adapted(VIT, method)

    def steps(x):
        x = model._pos_embed(model.patch_embed(x))
        for block in model.blocks:
            yield
            x = block(x)
        yield
        yield model.norm(x)

    want = [list(steps(images(size)))[-1] for size in SIZES]
    first, second = (steps(images(size)) for size in SIZES)
    got = list(zip(first, second, strict=True))
    # The norm of the first is run behind the second's last block, where only the tensors tell them apart.
    assert torch.equal(got[-1][1], want[1])
    assert len(got) == 5


def test_an_aborted_pass_leaves_nothing_behind():
    model = adapted(VIT, "VPTShallow")
    want = model(images())

    def fail(*_):
        raise RuntimeError("out of memory")

    handle = blocks(model)[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        model(images())
    handle.remove()
    assert torch.equal(model(images()), want)
    assert len(get_adaptation(model).host.passes._here.flows) == 1


@pytest.mark.parametrize("method", ["VPTShallow", "DTL", "LST", "LoRA"])
def test_the_graph_of_a_pass_is_freed(method):
    model = adapted(VIT, method)
    for block in blocks(model):
        checkpointed(block, use_reentrant=False)
    out = tokens(model, images())
    node = weakref.ref(get_adaptation(model).host.flow)
    marks = get_adaptation(model).host.passes._marks
    assert len(marks) == 3
    del out
    with torch.no_grad():
        model(images())
    gc.collect()
    assert node() is None
    assert len(marks) == 0


def test_the_switch_is_the_hosts():
    """``disabled`` in one thread holds for the passes of all threads."""
    model = adapted(VIT, "VPTShallow")
    found = []
    with vpeft.disabled(model):
        want = model(images())
        worker = threading.Thread(target=lambda: found.append(model(images())))
        worker.start()
        worker.join()
    assert torch.equal(found[0], want)
    assert not torch.equal(model(images()), want)


def test_a_copy_has_passes_of_its_own():
    model = adapted(VIT, "DTL")
    model(images())
    twin = copy.deepcopy(model)
    ours, theirs = (get_adaptation(m).host.passes for m in (model, twin))
    assert ours is not theirs
    assert theirs.current.grid == (0, 0)
    assert ours.current.grid == (4, 4)


def test_replicas_of_data_parallel_are_refused():
    """Several devices are needed for real ones; a replica is made here as torch makes it."""
    model = vpeft.attach(build("timm.VisionTransformer"), "LoRA")
    replica = model.patch_embed._replicate_for_data_parallel()
    with pytest.raises(vpeft.UserError, match="copies the model to several devices"):
        replica(torch.randn(1, 3, 32, 32, dtype=torch.float64))
