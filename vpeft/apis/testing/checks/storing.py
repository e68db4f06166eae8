"""What is stored, and what is left when a method goes."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from vpeft.apis.adapters import detach, disabled, load_adapter, save_adapter
from vpeft.apis.testing.case import Case, ContractError, ask_like
from vpeft.apis.testing.differences import difference_words, listed, loose_tensors
from vpeft.apis.testing.models import head_prefixes, perturb, seeded, tokens
from vpeft.core.adaptation.find import get_adaptation


def check_files_and_detach(case: Case) -> None:
    """Saved and loaded under another seed it is bit-equal; switched off or detached, the plain host is back."""
    plain, model = case.attached(torch.float32)
    other = copy.deepcopy(plain)  # LeViT keeps something of a pass that cannot be copied
    x = case.images(torch.float32)
    keys, base = list(plain.state_dict()), tokens(plain, x)
    perturb(model)
    out = tokens(model, x)
    with disabled(model):
        _need_equal(tokens(model, x), base, "switched off (vpeft.disabled), the output is not the plain host's")
    _need_equal(tokens(model, x), out, "switched off and on again, the output is another")
    path = case.folder / "a.safetensors"
    save_adapter(model, path)
    seeded(99)
    load_adapter(other, path)
    _check_loaded(model, other, x, out)
    _check_detached(plain, model, keys, x, base)


def _check_loaded(model: nn.Module, other: nn.Module, x: Tensor, out: Tensor) -> None:
    if apart := sorted(other.state_dict().keys() ^ model.state_dict().keys()):
        raise ContractError(f"loaded, the adapter has other tensors than the one that was saved: {listed(apart)}.")
    state, loose = model.state_dict(), loose_tensors(get_adaptation(model))
    what = f" No file stores {listed(loose)}." if loose else ""
    mend = (
        "What forward reads must be a parameter, a buffer (register_buffer), Fixed of vpeft.algorithms.modules, or "
        "follow from the hyper-parameters alone."
    )
    got = tokens(other, x)
    if not torch.equal(got, out):
        raise ContractError(
            f"saved and loaded under another seed, the output is another: {difference_words(got, out)}.{what} {mend}"
        )
    if apart := [key for key, value in other.state_dict().items() if not torch.equal(value, state[key])]:
        raise ContractError(f"saved and loaded under another seed, {listed(apart)} differs.{what} {mend}")


def _check_detached(plain: nn.Module, model: nn.Module, keys: list[str], x: Tensor, base: Tensor) -> None:
    heads = head_prefixes(model)
    detach(model)
    state = model.state_dict()
    if apart := sorted(set(state) ^ set(keys)):
        raise ContractError(f"detached, the model has other tensors than the plain host: {listed(apart)}.")
    if list(state) != keys or type(model) is not type(plain):
        raise ContractError(f"detached, the model is a {type(model).__name__} with its tensors in another order.")
    for key, value in plain.state_dict().items():
        if not (heads and key.startswith(heads)) and not torch.equal(state[key], value):
            raise ContractError(f"detached, {key} is not the plain host's: {difference_words(state[key], value)}.")
    if frozen := [key for key, p in model.named_parameters() if not p.requires_grad]:
        raise ContractError(f"detached, {listed(frozen)} stays frozen.")
    ask_like(model, plain)
    _need_equal(tokens(model, x), base, "detached, the output is not the plain host's")
    if hooked := [name for name, m in model.named_modules() if m._forward_hooks or m._forward_pre_hooks]:
        raise ContractError(f"detached, {listed(hooked)} keeps a hook: place modules at sites and hook nothing.")


def _need_equal(got: Tensor, want: Tensor, words: str) -> None:
    if got.shape != want.shape or not torch.equal(got, want):
        raise ContractError(f"{words}: {difference_words(got, want)}.")
