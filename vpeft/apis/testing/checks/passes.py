"""What a pass may not know: other images, other passes, other copies of the model."""

from __future__ import annotations

import copy

import torch

from vpeft.apis.testing.case import Case, ContractError
from vpeft.apis.testing.differences import attributes, difference_words, listed
from vpeft.apis.testing.models import inputs, perturb, tokens, trained
from vpeft.core.adaptation.find import get_adaptation


def check_images_apart(case: Case) -> None:
    """The images of a batch do not mix."""
    model = case.adapted()
    perturb(model)
    x = case.images(count=3)
    alone = torch.cat([tokens(model, x[i : i + 1]) for i in range(3)])
    got = tokens(model, x)
    if got.shape != alone.shape or not torch.allclose(got, alone, rtol=1e-9, atol=1e-9):
        raise ContractError(
            f"an image's output depends on the others of its batch: {difference_words(got, alone)}. Take no mean, "
            "maximum or norm over the first axis of the stream (B, N, C)."
        )


def check_passes_apart(case: Case) -> None:
    """A pass depends on its input alone, not on those before it, in eval and in train mode."""
    model = case.adapted()
    perturb(model)
    x, other = case.images(), inputs(case.host, 3, torch.float64, seed=8)
    for training in (False, True):
        model.train(training)
        with torch.no_grad():
            first = tokens(model, x)
            tokens(model, other)
            again = tokens(model, x)
            before = attributes(get_adaptation(model)) if not torch.equal(first, again) else {}
        if not torch.equal(first, again):
            tokens(model, other)
            now = attributes(get_adaptation(model))
            changed = {key[-1] for key, value in now.items() if before.get(key) != value}
            what = f" A pass changes {listed(sorted(changed))}." if changed else ""
            raise ContractError(
                f"the same input gives another output after a pass of another one ({'train' if training else 'eval'} "
                f"mode): {difference_words(again, first)}.{what} What belongs to a pass goes into "
                "flow.state[key][block index]; what is drawn in a pass, through torch's own generator."
            )


def check_copies_apart(case: Case) -> None:
    """Copies of the model share nothing."""
    model = case.adapted()
    perturb(model)
    out = tokens(model, case.images())
    other = copy.deepcopy(model)
    perturb(other, 0.5)
    if not torch.equal(tokens(model, case.images()), out):
        raise ContractError("training a copy (copy.deepcopy) changes the model: keep no module in a global or closure.")
    if trained(other) and torch.equal(tokens(other, case.images()), out):
        raise ContractError("a copy (copy.deepcopy) computes with the tensors of the model that it was copied from.")
