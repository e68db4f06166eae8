"""Frozen features that are kept give the bits of those that are computed."""

import copy
import pickle

import pytest
import torch
from safetensors.torch import load
from support.hosts import build, seeded, tiny_of

import vpeft
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.adaptation.training.frozen.feature_records import SUM, mixed_batch, packed
from vpeft.core.adaptation.training.frozen.frozen_features import FrozenFeatures, _laid, _order
from vpeft.core.store import Store

VIT, SWIN = "mmpretrain.VisionTransformer", "mmpretrain.SwinTransformer"
IMAGES, BATCH, EPOCHS = 14, 4, 3


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "features", "200MB")


def trained(host, method, store=None, noise=0.0, seed=11, backbone=None, in_place=False):
    """Losses and trained values of a short training on fixed images, the features, and what was said."""
    torch.manual_seed(0)
    model, said = backbone or build(host, torch.float32), []
    seeded(seed)
    vpeft.attach(model, method)
    features = FrozenFeatures(get_adaptation(model), store, said.append) if store is not None else None
    if features:
        features.start()
    images = torch.randn(IMAGES, *tiny_of(host).shape, generator=torch.Generator().manual_seed(3))
    head, losses, optimiser, place = torch.nn.LazyLinear(3), [], None, torch.empty_like(images[:BATCH])
    model.train()
    own = [p for p in model.parameters() if p.requires_grad]
    for epoch in range(EPOCHS):
        numbers = torch.Generator().manual_seed(epoch)
        for part in torch.randperm(IMAGES, generator=numbers).split(BATCH):
            batch = images[part] + noise * torch.randn(images[part].shape, generator=numbers)
            if in_place:
                batch = place[: len(part)].copy_(batch)
            leaves = [x for x in torch.utils._pytree.tree_leaves(model(batch)) if isinstance(x, torch.Tensor)]
            out = torch.cat([x.flatten(1) for x in leaves], 1)
            if optimiser is None:
                torch.manual_seed(5)
                head(out.detach())
                optimiser = torch.optim.SGD([*own, *head.parameters()], lr=1e-3)
            loss = torch.nn.functional.cross_entropy(head(out), part % 3)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    if features:
        assert not (features.used and features._last)  # no images are held on to once they come again
        features.stop()
    return losses, [p.detach().clone() for p in (*own, *head.parameters())], features, said


def same(one, other):
    return one[0] == other[0] and all(map(torch.equal, one[1], other[1]))


CASES = [
    (VIT, "Linear", 3),
    (VIT, {"type": "PartialK", "k": 1}, 1),  # DropPath begins in the second block
    (VIT, "LST", 3),
    (VIT, "LAST", 3),
    (VIT, {"type": "LoRA", "blocks": 2}, 1),
    (VIT, {"type": "DyT", "blocks": 1}, 1),  # what it drops is drawn, and its losses come from the pass
    (SWIN, "Linear", 4),
    (SWIN, "E3VA", 4),
    ("timm.SwinTransformer", "E3VA", 4),
    ("timm.VisionTransformer", "Linear", 3),  # its head is a part of it
    ("timm.VisionTransformer", {"type": "PartialK", "skip_unread": True}, 1),  # what is compared is a training pass
    ("mmaction.VisionTransformer", "LST", 3),
    ("mmseg.SwinTransformer", "Linear", 4),
]


@pytest.mark.parametrize(("host", "method", "depth"), CASES)
def test_losses_and_weights_have_the_same_bits(host, method, depth, store):
    plain, kept = trained(host, method), trained(host, method, store)
    assert same(plain, kept)
    assert kept[2].depth == depth
    # Two sizes of batches, each compared in the first epoch: the others compute nothing.
    assert kept[2].used == (EPOCHS - 1) * IMAGES
    assert len(store) == IMAGES
    assert len(kept[3]) == 1


def test_batches_that_are_written_over_are_compared_as_they_come_again(store):
    plain, kept = trained(VIT, "LST"), trained(VIT, "LST", store, in_place=True)
    assert same(plain, kept)
    assert kept[2].used == (EPOCHS - 1) * IMAGES - BATCH - IMAGES % BATCH
    assert len(kept[3]) == 1  # they are not taken for features that hang on the batch


def test_the_next_run_and_other_methods_find_them(store):
    trained(VIT, "LST", store)
    plain = trained(VIT, "LAST", seed=12)
    kept = trained(VIT, "LAST", store, seed=12)
    assert same(plain, kept)
    assert len(store) == IMAGES  # both read every block's output
    assert kept[2].used == EPOCHS * IMAGES - BATCH - IMAGES % BATCH  # the first batch of each size is compared


def test_another_base_finds_none(store):
    trained(VIT, "Linear", store)
    other = build(VIT, torch.float32)
    with torch.no_grad():
        other.cls_token += 1e-3
    assert same(trained(VIT, "Linear", backbone=copy.deepcopy(other)), trained(VIT, "Linear", store, backbone=other))
    assert len(store) == 2 * IMAGES


def test_images_that_never_come_again_are_computed(store):
    plain, kept = trained(VIT, "Linear", noise=0.1), trained(VIT, "Linear", store, noise=0.1)
    assert same(plain, kept)
    assert kept[2].used == 0


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ("LoRA", "lora changes what passes at qkv of block 0"),
        ("BitFit", "patch_embed.projection.bias is trained"),
        ("VPTDeep", "vptdeep changes what passes at block of block 0"),
    ],
)
def test_where_nothing_is_frozen_it_is_said(method, why, store):
    assert same(trained(VIT, method), kept := trained(VIT, method, store))
    assert kept[3] == [f"frozen features are computed anew in every epoch: {why}."]
    assert len(store) == 0


def test_numbers_that_hang_on_the_batch_are_not_used(store):
    """As where a machine rounds otherwise: what is kept is not what is computed."""
    trained(VIT, "Linear", store)
    with store._base.begin() as reading:
        records = {bytes(key): bytes(value) for key, value in reading.cursor()}
    store.put({key: packed({n: x + 1e-6 for n, x in load(record[:-SUM]).items()}) for key, record in records.items()})
    plain, kept = trained(VIT, "Linear"), trained(VIT, "Linear", store)
    assert same(plain, kept)
    assert "hang on which images are in a batch together" in kept[3][-1]
    assert kept[2].used == 0


def test_a_full_store_keeps_what_it_has(tmp_path):
    small = Store(tmp_path, 10**6)
    small.put({b"others": bytes(800_000)})
    plain, kept = trained(VIT, "LST"), trained(VIT, "LST", small)
    assert same(plain, kept)
    assert "the limit of 1,000,000 bytes is reached; the rest is computed anew" in kept[3][-1]


def test_copies_compute_for_themselves(store):
    model = build(VIT, torch.float32)
    vpeft.attach(model, "LST")
    features = FrozenFeatures(get_adaptation(model), store, print)
    plain = type(model)
    features.start()
    assert isinstance(model, plain)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(other) is plain
        assert get_adaptation(other).host.passes.features is None
    features.stop()
    assert type(model) is plain


@pytest.mark.parametrize("harm", [lambda r: r[:-9], lambda r: r[:100] + bytes([r[100] ^ 1]) + r[101:], lambda r: b""])
def test_damaged_records_are_computed_again(harm, store):
    """Cut, with another bit, or empty: the sum over the bytes is not theirs."""
    trained(VIT, "LST", store)
    with store._base.begin() as reading:
        records = {bytes(key): bytes(value) for key, value in reading.cursor()}
    store.put({key: harm(record) for key, record in records.items()})
    assert same(trained(VIT, "LST"), trained(VIT, "LST", store))
    with store._base.begin() as reading:
        assert {bytes(key): bytes(value) for key, value in reading.cursor()} == records


@pytest.mark.parametrize("method", ["LST", {"type": "PartialK", "k": 1}])
def test_the_embedding_is_not_run_again(method, store):
    model, calls = build(VIT, torch.float32), []
    project = model.patch_embed.projection
    plain = project.forward
    project.forward = lambda x: calls.append(len(x)) or plain(x)
    kept = trained(VIT, method, store, backbone=model)
    assert kept[2].used
    compared = BATCH + IMAGES % BATCH
    assert sum(calls) == EPOCHS * IMAGES - kept[2].used + compared


def test_a_batch_around_the_seam_of_two():
    first = ([b"0", b"1", b"2"], ((torch.arange(3.0),), {"size": 4}))
    second = ([b"3", b"4"], ((torch.tensor([3.0, 4.0]),), {"size": 4}))
    for count, numbers in ((4, [0, 1, 2, 3]), (3, [1, 2, 3]), (2, [1, 2]), (1, [2])):
        images, ((x,), more) = mixed_batch([first, second], count)
        assert images == [str(number).encode() for number in numbers]
        assert x.tolist() == numbers
        assert more == {"size": 4}
    other_size = ([b"3", b"4"], ((torch.ones(2, 1),), {"size": 4}))
    other_word = ([b"3", b"4"], ((torch.ones(2),), {"size": 5}))
    for batches, count in (
        ([], 1),
        ([first], 3),
        ([first, second], 5),
        ([first, other_size], 2),
        ([first, other_word], 2),
    ):
        assert mixed_batch(batches, count) is None


def test_tensors_come_back_as_they_lay_in_memory():
    x = torch.randn(2, 3, 4, 5)
    for turned in (x, x.transpose(1, 2), x.permute(0, 3, 1, 2), x.transpose(0, 1)):
        again = _laid(turned.clone(memory_format=torch.contiguous_format), _order(turned))
        assert torch.equal(again, turned)
        assert again.stride() == turned.stride()
