"""Fixed views of training images."""

import pickle
import random
from itertools import chain

import numpy as np
import torch
from torch.utils.data import Dataset

from vpeft.core.adaptation.training.views import Views


class Drawn(Dataset):
    """What is drawn from all three sources of random numbers."""

    name = "drawn"

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return index, random.random(), float(np.random.rand()), float(torch.rand(()))


def seen(seed, epochs, views=3):
    data, found = Views(Drawn(), views, seed), []
    for epoch in range(epochs):
        data.begin(epoch)
        found.append([data[i] for i in range(len(data))])
    return found


def test_every_view_is_seen_once_in_so_many_epochs():
    found = seen(0, 6)
    for begin in (0, 3):
        for index in range(5):
            assert len({epoch[index] for epoch in found[begin : begin + 3]}) == 3
    assert set(found[0] + found[1] + found[2]) == set(found[3] + found[4] + found[5])
    assert found[:3] != found[3:]  # in another order


def test_runs_share_views_and_not_their_order():
    one, other = seen(0, 3), seen(1, 3)
    assert set(chain(*one)) == set(chain(*other))
    assert one != other
    assert one == seen(0, 3)


def test_reading_draws_nothing_and_the_data_set_is_seen_through():
    data, state = Views(Drawn(), 2, 0), (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    first = data[1]
    assert random.getstate() == state[0]
    assert np.random.get_state()[1].tolist() == state[1]
    assert torch.equal(torch.get_rng_state(), state[2])
    assert data.name == "drawn"
    assert pickle.loads(pickle.dumps(data))[1] == first
