"""What a step of training does: gradients, what moves, what lies in memory."""

from __future__ import annotations

import copy
import functools
import gc
import weakref
from collections.abc import Mapping

import torch
from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing
from torch import Tensor, nn

from vpeft.apis.testing.case import Case, ContractError, NotHere, block_modules, need_gradients, own_and_rest
from vpeft.apis.testing.differences import difference_words, listed
from vpeft.apis.testing.models import key_biases, loss, perturb, seeded, tokens, trained
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.backbones.sites.passes import handed_on

#: Largest number of a step along which an output's slope grows by one: a smaller gradient drowns in rounding.
LONGEST_STEP = 1e4


def check_gradients_and_steps(case: Case) -> None:
    """Every trained tensor gets a gradient and moves, every frozen one neither."""
    model = case.adapted()
    perturb(model)
    model.train()
    before = {k: p.detach().clone() for k, p in model.named_parameters()}
    own, rest = own_and_rest(model)
    unfelt = key_biases(model)
    if own:
        need_gradients(model, case.images())
    if wrong := [k for k, p in rest.items() if k not in own and p.grad is not None]:
        raise ContractError(f"{listed(wrong)} is frozen and got a gradient: do not set requires_grad of the base.")
    if own:
        optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        for step in range(8):  # DropPath may leave a branch out in some
            optimiser.zero_grad()
            loss(tokens(model, case.images(), seed=step)).backward()
            optimiser.step()
            if not any(torch.equal(p, before[k]) for k, p in own.items()):
                break
    for key, param in rest.items():
        if key not in unfelt and torch.equal(param, before[key]) == (key in own):
            still = "is trained and has not moved in eight steps" if key in own else "is frozen and has moved"
            raise ContractError(f"{key} {still}: forward must read parameters and never write into them.")


def check_memory(case: Case) -> None:
    """Gradients enter the blocks that the memory class says, and no others."""
    model = case.adapted()
    memory, seen = case.cls.memory, []
    blocks = get_adaptation(model).host.blocks
    for block in blocks:
        block.module.register_forward_hook(lambda m, args, out: seen.append(_stream(out).requires_grad))
    tokens(model.train(), case.images())
    graph = ", ".join("yes" if one else "no" for one in seen)
    where = f"of the blocks' outputs, which ask for a gradient: {graph}"
    if memory == "M0":
        inside = [item for b in blocks for item in b.module.named_modules()]
        awake = [name for name, m in inside if "peft" not in name.split(".") and m.training]
        if any(seen) or awake:
            mode = f"; in train mode: {listed(awake)} (base_eval = True keeps the base in eval)" if awake else ""
            raise ContractError(f"memory = 'M0' says that no gradient enters a block; {where}{mode}.")
    elif memory.startswith("M1"):
        if seen[0] or not seen[-1]:
            raise ContractError(f"memory = {memory!r} says that gradients enter the upper blocks alone; {where}.")
    else:  # from the first block on in which anything is placed: prompts enter those with attention alone
        placed = [any(site.entries for site in b.sites.values()) for b in blocks]
        if not all(seen[placed.index(True) if any(placed) else 0 :]):
            raise ContractError(f"memory = {memory!r} says that gradients pass all blocks; {where}: state another.")
    existing = get_adaptation(model).trained_parameters()
    if any(p.block and p.role == "weight" for p in existing) != memory.endswith("w"):
        raise ContractError(f"memory = {memory!r}: the w is for methods that train weight matrices of the base itself.")
    _need_nothing_left(model, case.images())


def _need_nothing_left(model: nn.Module, x: Tensor) -> None:
    """Raise where tensors of a pass outlive the next one: memory would grow with every step."""
    made: list[weakref.ref[Tensor]] = []
    passes = get_adaptation(model).host.passes
    hooks = [
        b.register_forward_hook(lambda m, a, out: made.append(weakref.ref(_stream(out)))) for b in block_modules(model)
    ]
    counts = []
    for seed in range(3):
        out = loss(tokens(model, x, seed=seed))
        made += [weakref.ref(one) for one in handed_on(passes.current.state)]
        if out.requires_grad:
            out.backward()
        counts.append(len(made))
    for hook in hooks:
        hook.remove()
    model.zero_grad()
    if any(one() is not None for one in made[: counts[1]]):
        gc.collect()
    if left := sum(one() is not None for one in made[: counts[1]]):
        raise ContractError(
            f"{left} tensors of passes that are over are still there, so that memory grows with every step: keep what "
            "belongs to a pass in flow.state[key][block index], and nothing on the module."
        )


def _stream(out: Tensor | tuple) -> Tensor:
    """What a block gives to the next one; some give attention weights beside it."""
    return out[0] if isinstance(out, tuple) else out


def check_checkpointing(case: Case) -> None:
    """Activation checkpointing gives the same gradients."""
    model = case.adapted()
    perturb(model)
    if not trained(model):
        raise NotHere("nothing of the backbone is trained")
    other = copy.deepcopy(model)
    names = {id(m): n for n, m in other.named_modules()}
    turn_on_activation_checkpointing(other, [names[id(block)] for block in block_modules(other)])
    for one in (model, other):
        seeded(1)
        loss(tokens(one, case.images())).backward()
    copied = trained(other)
    for key, param in trained(model).items():
        grad = copied[key].grad
        if grad is None or not torch.allclose(grad, param.grad, rtol=1e-9, atol=1e-9):
            apart = "there is none" if grad is None else difference_words(grad, param.grad)
            raise ContractError(
                f"with activation checkpointing the gradient of {key} is another: {apart}. A block runs twice then: "
                "keep what belongs to a pass in flow.state[key][block index], and nothing on the module."
            )


def check_autocast(case: Case) -> None:
    """bfloat16 autocast gives finite outputs and gradients."""
    model = case.adapted(torch.float32)
    perturb(model)
    x = case.images(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = tokens(model.train(), x)
    _need_finite(out, "with bfloat16 autocast")
    if trained(model):
        loss(out.float()).backward()
        wrong = [k for k, p in trained(model).items() if p.grad is None or not torch.isfinite(p.grad).all()]
        if wrong:
            raise ContractError(
                f"with bfloat16 autocast {listed(wrong)} has no finite gradient: compute it in float32."
            )


def check_other_input_size(case: Case) -> None:
    """Another size of input works."""
    if case.other_size() is None:
        raise NotHere("the backbone takes one size of input alone")
    options, shape = case.other_size()
    model = case.adapted(**options)
    perturb(model)
    x = case.images(shape=shape)
    try:
        out = tokens(model.train(), x)
    except RuntimeError as error:
        raise ContractError(
            f"an input of {list(shape)} in the place of {list(case.shape)} fails: {error}. Read the map's size from "
            "flow.hw in every pass."
        ) from error
    _need_finite(out, f"on an input of {list(shape)}")
    if trained(model):
        need_gradients(model, x, f" on an input of {list(shape)}")


def _need_finite(out: Tensor, when: str) -> None:
    if not torch.isfinite(out).all():
        count = int((~torch.isfinite(out)).sum())
        raise ContractError(f"{count:,} of {out.numel():,} outputs are not finite {when}.")


def _inside_blocks(model: nn.Module) -> dict[str, tuple[str | None, str]]:
    """Names of trained tensors with what they are called inside their block, alike in every block of a class."""
    names = {id(m): n for n, m in model.named_modules()}
    blocks = {f"{names[id(block)]}.": type(block).__name__ for block in block_modules(model)}
    found = {}
    for key in trained(model):
        block = next((block for block in blocks if key.startswith(block)), "")
        found[key] = blocks.get(block), key.removeprefix(block)
    return found


@torch.no_grad()
def _true_gradients(model: nn.Module, x: Tensor, own: Mapping[str, nn.Parameter]) -> set[str]:
    """The tensors whose gradients are shown to be derivatives of the output; none where one of them is not."""
    generator = torch.Generator().manual_seed(9)
    steps = {}
    for key, param in own.items():
        if param.grad is not None and param.grad.any():
            step = torch.randn(param.shape, generator=generator, dtype=param.dtype)
            step /= (step * param.grad).sum()
            if step.abs().max() < LONGEST_STEP:
                steps[key] = step
    if not steps:
        return set()
    size, kept = 1e-6 / max(float(step.abs().max()) for step in steps.values()), {k: own[k].clone() for k in steps}
    values = []
    for sign in (1, -1):
        for key, step in steps.items():
            own[key].copy_(kept[key]).add_(step, alpha=sign * size)
        values.append(float(loss(tokens(model, x))))
    for key, before in kept.items():
        own[key].copy_(before)
    slope = (values[0] - values[1]) / (2 * size)
    return set(steps) if abs(slope - len(steps)) < 0.01 else set()


def check_no_silent_bypass(case: Case) -> None:
    """Every trained tensor by itself changes the output; what decides in steps, by a large change at the latest.

    A gradient says so of all at once. That it is the output's own, and no estimate, shows the output's slope along a
    direction in which every tensor has the same share. Where that is another, or a share too small, a tensor is changed
    by itself: the first of each name in blocks of a class, and all that have none.
    """
    model = case.adapted()
    perturb(model)
    x, own, unfelt = case.images(count=1), trained(model), key_biases(model)
    if own:
        loss(tokens(model, x)).backward()
    unfelt |= _true_gradients(model, x, own)

    @functools.cache
    def before(seed: int) -> Tensor:
        return tokens(model, x, seed)

    @torch.no_grad()
    def changes(param: nn.Parameter, size: float, seed: int) -> bool:
        out, kept = before(seed), param.detach().clone()
        seeded(5)
        param.add_(torch.randn_like(param) * size)
        other = tokens(model, x, seed)
        param.copy_(kept)
        return not torch.equal(other, out)

    changed = set()
    tried = [(size, seed) for seed in range(4) for size in (0.5, 100.0, -100.0)]  # MAE hides what is drawn
    for key, name in _inside_blocks(model).items():
        if key in unfelt or (name in changed and own[key].grad is not None and own[key].grad.any()):
            continue
        if not any(changes(own[key], size, seed) for size, seed in tried):
            raise ContractError(f"{key} is trained and no change of it changes the output: use it, or do not train it.")
        changed.add(name)
