"""What merging leaves: the same function in the plain host's weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from vpeft.apis.adapters import merge, plain_state_dict, unmerge
from vpeft.apis.testing.case import Case, ContractError, NotHere
from vpeft.apis.testing.differences import difference_words, false_affine, listed
from vpeft.apis.testing.models import perturb, tokens
from vpeft.core.adaptation.find import get_adaptation
from vpeft.errors import UserError

#: Keys that matter or a linear without a bias take no shift, a norm behind a branch takes no matrix.
NOT_MERGED = ("no bias to merge a shift into", "no bias to merge the shift into")


def check_merge(case: Case) -> None:
    """Merged equals unmerged in float64, and unmerging restores.

    Where a host rounds to float32 inside, a number next to the middle of two may fall to the other side: it is then
    looked at without that, to the same bound.
    """
    try:
        _check(case, torch.float64, 1e-10)
    except ContractError:
        with _AsWide():
            _check(case, torch.float64, 1e-10)


def check_merge_float32(case: Case) -> None:
    """The same in float32."""
    _check(case, torch.float32, 1e-4)


def _check(case: Case, dtype: torch.dtype, tolerance: float) -> None:
    plain, model = case.attached(dtype)
    perturb(model)
    x = case.images(dtype)
    out = tokens(model, x)
    (method,) = get_adaptation(model).methods.values()
    if not method.mergeable and not method.partly_mergeable:
        _check_refusal(model)
        return
    try:
        left = merge(model)
    except UserError as error:
        if not any(words in str(error) for words in NOT_MERGED):
            raise ContractError(f"mergeable says yes, and merging is refused: {error}") from error
        _need_same(tokens(model, x), out, 0.0, "a merge that is refused changes the model")
        raise NotHere(str(error)) from error
    if left != ([method.key()] if method.partly_mergeable else []):
        raise ContractError(
            f"merging leaves {listed(left) or 'nothing'} in place: give every placed module affine() -> (M, m), or set "
            "mergeable = False or partly_mergeable = True."
        )
    got = tokens(model, x)
    if not _same(got, out, tolerance):
        unmerge(model)
        hint = false_affine(get_adaptation(model), lambda: tokens(model, x), tolerance)
        raise ContractError(
            f"merged weights compute another output: {difference_words(got, out)}.{f' {hint}.' if hint else ''}"
        )
    if not method.partly_mergeable:
        _check_plain(plain, model, x, out, tolerance)
    if get_adaptation(model).merged or method.partly_mergeable:
        if not method.partly_mergeable:
            _need_refusal(merge, model, "merged already")
        unmerge(model)
        _need_same(tokens(model, x), out, 0.0, "unmerging does not restore the output")
    if not method.partly_mergeable:
        _need_refusal(unmerge, model, "not merged")


class _AsWide(TorchDispatchMode):
    """What asks for float32 inside a host in float64, as a softmax does, gets float64."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if operation is torch.ops.aten._to_copy.default and kwargs.get("dtype") is torch.float32:
            kwargs = {**kwargs, "dtype": torch.promote_types(args[0].dtype, torch.float32)}
        return operation(*args, **kwargs)


def _check_refusal(model: nn.Module) -> None:
    keys = {k: v.clone() for k, v in model.state_dict().items()}
    _need_refusal(merge, model, "cannot be merged")
    if not all(torch.equal(v, keys[k]) for k, v in model.state_dict().items()):
        raise ContractError("a merge that is refused changes weights.")


def _check_plain(plain: nn.Module, model: nn.Module, x: Tensor, out: Tensor, tolerance: float) -> None:
    state = plain_state_dict(model)
    tokens(plain, x)  # mmpretrain's EVA-02 keeps tables of the last image's size,
    plain.train()  # and timm's LeViT biases that it has computed, until then
    plain.eval()
    if apart := sorted(state.keys() ^ plain.state_dict().keys()):
        raise ContractError(f"the merged weights and the plain host's differ in their names: {listed(apart)}.")
    plain.load_state_dict(state, strict=False)  # mmpretrain's Swin V2 throws buffers of its own file away
    _need_same(tokens(plain, x), out, tolerance, "a plain host with the merged weights computes another output")


def _same(got: Tensor, want: Tensor, tolerance: float) -> bool:
    return got.shape == want.shape and bool((got - want).abs().max() <= tolerance * want.abs().max())


def _need_same(got: Tensor, want: Tensor, tolerance: float, words: str) -> None:
    if not _same(got, want, tolerance):
        raise ContractError(f"{words}: {difference_words(got, want)}.")


def _need_refusal(deed: object, model: nn.Module, words: str) -> None:
    try:
        deed(model)
    except UserError as error:
        if words in str(error):
            return
        raise ContractError(f"{deed.__name__} is refused in other words than {words!r}: {error}") from error
    raise ContractError(f"{deed.__name__} goes through where it says {words!r} of every other method.")
