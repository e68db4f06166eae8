"""The seed of an epoch is made of the run's seed, the epoch and the rank, and two of these never meet."""

from types import SimpleNamespace

import torch

from vpeft.core.hooks import epoch_seed


def drawn(seed, epoch, rank, monkeypatch):
    monkeypatch.setattr(epoch_seed, "get_rank", lambda: rank)
    runner = SimpleNamespace(seed=seed, epoch=epoch, iter=epoch * 7, _train_loop=None)
    epoch_seed.EpochSeedHook().before_train_epoch(runner)
    return float(torch.rand((), dtype=torch.float64))


def test_seed_epoch_and_rank_all_count(monkeypatch):
    places = [(seed, epoch, rank) for seed in range(3) for epoch in range(4) for rank in range(3)]
    numbers = [drawn(*place, monkeypatch) for place in places]
    assert len(set(numbers)) == len(places)
    assert numbers == [drawn(*place, monkeypatch) for place in places]


def test_no_seed_is_seed_zero(monkeypatch):
    assert drawn(None, 2, 1, monkeypatch) == drawn(0, 2, 1, monkeypatch)
