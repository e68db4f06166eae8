"""What methods are worth together: oracle and ensembles."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vpeft.core.trained.logits import Logits
from vpeft.errors import UserError


def oracle_accuracy(runs: Sequence[Logits]) -> float:
    """Share of the samples that at least one run gets right, in percent: what the best choice per sample would give."""
    return 100 * float(torch.stack([run.correct for run in runs]).any(0).double().mean())


def logit_average(runs: Sequence[Logits]) -> Tensor:
    """Classes with the largest mean score over runs, ``(N,)``.

    The scores are centred per sample first, so that logits and log-probabilities can be averaged; it changes no
    prediction.
    """
    scores = torch.stack([run.logits.double() for run in runs])
    return (scores - scores.mean(2, keepdim=True)).mean(0).argmax(1)


def majority(runs: Sequence[Logits]) -> Tensor:
    """Classes that most runs predict, ``(N,)``; a tie goes to that with the larger mean probability among the tied."""
    classes = runs[0].logits.shape[1]
    votes = torch.stack([torch.nn.functional.one_hot(run.predicted, classes) for run in runs]).sum(0)
    probability = torch.stack([run.logits.double().softmax(1) for run in runs]).mean(0)
    tied = votes == votes.amax(1, keepdim=True)
    return probability.masked_fill(~tied, -1.0).argmax(1)


RULES = {"logit average": logit_average, "majority": majority}


def ensemble_report(runs: Sequence[Logits]) -> dict[str, object]:
    """Accuracies in percent: every member, the best one, the oracle, each ensemble and its gain over the best one.

    Raises:
        UserError: There are fewer than two runs.
    """
    if len(runs) < 2:
        raise UserError("an ensemble needs at least two runs.")
    members = {run.name: run.accuracy for run in runs}
    best = max(members, key=members.get)
    ensembles = {}
    for name, rule in RULES.items():
        accuracy = 100 * float((rule(runs) == runs[0].labels).double().mean())
        ensembles[name] = {"accuracy": accuracy, "gain": accuracy - members[best]}
    return {"members": members, "best": best, "oracle": oracle_accuracy(runs), "ensembles": ensembles}
