"""Images are not read again where their features are kept, and nobody can tell."""

import pytest
import torch
from mmengine.dataset import pseudo_collate
from support.hosts import build, seeded, tiny_of
from torch import nn
from torch.utils.data import DataLoader, Dataset

import vpeft
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.adaptation.training.frozen.feature_records import Unread
from vpeft.core.adaptation.training.frozen.frozen_features import FrozenFeatures
from vpeft.core.adaptation.training.frozen.spared_images import SparedImages, reads_without_chance
from vpeft.core.store import Store

VIT = "mmpretrain.VisionTransformer"
IMAGES, BATCH, EPOCHS = 10, 4, 4


class Pictures(Dataset):
    """Fixed pictures of eight bits, counted as they are read."""

    def __init__(self, larger=None, changed=None):
        self.read, self.larger, self.changed = 0, larger, changed

    def __len__(self):
        return IMAGES

    def __getitem__(self, index):
        self.read += 1
        shape = tiny_of(VIT).shape
        if index == self.larger:
            shape = (shape[0], shape[1] + 16, shape[2])
        drawn = torch.Generator().manual_seed(index + 100 * (index == self.changed))
        image = torch.randint(256, shape, dtype=torch.uint8, generator=drawn)
        return {"inputs": image, "label": index % 3}


class Preprocessor(nn.Module):
    """Images of a batch, of one size and in floats."""

    def __init__(self, noise=0.0, scale=255):
        super().__init__()
        self.noise, self.scale = noise, scale

    def forward(self, batch, training=False):
        size = [min(sizes) for sizes in zip(*(x.shape[1:] for x in batch["inputs"]), strict=True)]
        whole = torch.stack([x[:, : size[0], : size[1]] for x in batch["inputs"]]).float() / self.scale
        return {"inputs": whole + self.noise * torch.rand(1) if self.noise else whole, "labels": batch["label"]}


def trained(method="LST", folder=None, workers=0, noise=0.0, larger=None, changed=None, scale=255, beside=False):
    """Losses, trained values, how many pictures were read, and what was said."""
    torch.manual_seed(0)
    model, data, said = build(VIT, torch.float32), Pictures(larger, changed), []
    seeded(1)
    vpeft.attach(model, method)
    loader = DataLoader(data, BATCH, shuffle=True, num_workers=workers, collate_fn=pseudo_collate)
    preprocessor, head = Preprocessor(noise, scale), nn.Linear(16, 3)
    features = None
    if folder:
        store = Store(folder, "100MB")
        features = FrozenFeatures(get_adaptation(model), store, lambda line: None)
        features.start()
        loader = SparedImages(loader, features, preprocessor, said.append)
    own, losses = [p for p in model.parameters() if p.requires_grad], []
    optimiser = torch.optim.SGD([*own, *head.parameters()], lr=1e-2)
    model.train()
    torch.manual_seed(2)
    for _ in range(EPOCHS):
        for batch in loader:
            done = preprocessor(batch, True)
            (out,) = model(done["inputs"])
            out = out.flatten(1)[:, :16] + torch.rand(1)  # as whoever draws random numbers in a step
            if beside:
                out = out + done["inputs"].mean((1, 2, 3))[:, None]
            loss = nn.functional.cross_entropy(head(out), torch.tensor(done["labels"]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    if features:
        loader.stop()
        features.stop()
        store.close()
    return losses, [p.detach().clone() for p in (*own, *head.parameters())], data.read, said


def check(folder, said, read=None, **case):
    plain, kept = trained(**case), trained(**case, folder=folder)
    assert plain[0] == kept[0]
    assert all(map(torch.equal, plain[1], kept[1]))
    assert [line.split(": ", 1)[1] for line in kept[3]] == said
    assert read is None or kept[2] == read
    return kept


NOT_READ = "images are not read any more."
ALL_THE_SAME = "images are read in every epoch all the same: "


@pytest.mark.parametrize("method", ["LST", "Linear"])
def test_images_are_read_once(method, tmp_path):
    # An epoch has two whole batches, too few to compare a mixed one: the third is computed again.
    check(tmp_path, [NOT_READ], IMAGES + BATCH, method=method)


def test_workers_have_nothing_more_to_read(tmp_path):
    check(tmp_path, [NOT_READ], BATCH, workers=1)


def test_who_asks_for_images_is_given_them(tmp_path):
    said = [NOT_READ, ALL_THE_SAME + "something asks for them, beside the kept features."]
    check(tmp_path, said, beside=True)


@pytest.mark.parametrize(
    ("case", "why"),
    [({"noise": 0.1}, "batches are changed at random"), ({"larger": 4}, "they are not all of one size")],
)
def test_where_images_must_be_read_it_is_said(case, why, tmp_path):
    check(tmp_path, [f"{ALL_THE_SAME}{why}."], EPOCHS * IMAGES, **case)


@pytest.mark.parametrize(("case", "new"), [({"changed": 3}, 1), ({"scale": 128}, IMAGES)])
def test_a_changed_picture_and_a_changed_pipeline_find_nothing_of_before(case, new, tmp_path):
    trained(folder=tmp_path)
    check(tmp_path, [NOT_READ], **case)
    store = Store(tmp_path, "100MB")
    assert len(store) == IMAGES + new
    store.close()


def test_chance_in_reading_is_seen():
    class Drawn(Pictures):
        def __getitem__(self, index):
            torch.rand(1)
            return super().__getitem__(index)

    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert reads_without_chance(Pictures(), 3)
    assert not reads_without_chance(Drawn(), 3)
    assert torch.equal(before, torch.get_rng_state())


def test_an_unread_tensor_is_read_once_and_only_where_its_values_are_asked_for():
    read, x = [], torch.randn(2, 3)
    unread = Unread.of(x.shape, x.dtype, x.device, lambda: read.append(1) or x)
    assert (unread.shape, len(unread), unread.dtype, unread.device) == (x.shape, 2, x.dtype, x.device)
    assert unread.to("cpu") is unread
    assert not read
    assert torch.equal(unread + 1, x + 1)
    assert torch.equal(torch.cat([unread, unread]), torch.cat([x, x]))
    assert read == [1]
