"""What a method selects from is the training data, whatever wraps it, once and read as in validation."""

import numpy as np
import pytest
import torch
from mmengine import Config
from mmengine.dataset import BaseDataset, ClassBalancedDataset, Compose, ConcatDataset, RepeatDataset
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import DATASETS
from mmengine.structures import BaseDataElement
from torch import nn
from torch.utils.data import Dataset, Subset

from vpeft.core.adaptation.training.selection_data import read_as, selection_batches
from vpeft.errors import UserError


class Numbers(BaseDataset):
    """Sample ``i`` of class ``labels[i]`` is the number ``start + i``."""

    def __init__(self, labels, start=0, **kwargs):
        self.labels, self.start = labels, start
        super().__init__(serialize_data=False, **kwargs)

    def load_data_list(self):
        return [{"number": self.start + i, "gt_label": label} for i, label in enumerate(self.labels)]

    def get_cat_ids(self, idx):
        return [self.get_data_info(idx)["gt_label"]]


class Mixing(Dataset):
    """As mmdet's and mmseg's ``MultiImageMixDataset``."""

    def __init__(self, dataset, pipeline):
        self.dataset, self.pipeline = dataset, pipeline

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        raise AssertionError("samples are mixed")


def augmented(info):
    raise AssertionError("read with augmentation")


def packed(info):
    sample = BaseDataElement(metainfo={"img_path": f"{info['number']}.png"})
    sample.gt_label = torch.tensor(np.atleast_1d(info["gt_label"]))
    return {"inputs": torch.full((1,), float(info["number"])), "data_samples": sample}


def numbers(*labels, start=0):
    return Numbers(list(labels), start, pipeline=[augmented])


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.preprocess = BaseDataPreprocessor()

    def data_preprocessor(self, batch, training):
        batch = self.preprocess(batch, training)
        return {**batch, "inputs": torch.stack(batch["inputs"])}


def seen(dataset):
    """Numbers and labels, sorted, that a selection gets to see."""
    cfg = Config({"train_dataloader": {"batch_size": 2}, "val_dataloader": {"dataset": {"pipeline": [packed]}}})
    batches = list(selection_batches(cfg, Model(), dataset))
    rows = [(int(x), int(y)) for xs, ys in batches for x, y in zip(xs, ys, strict=True)]
    return sorted(rows)


def concat(*datasets):
    joined = ConcatDataset([numbers(0)])  # whose own check takes no wrappers
    joined.datasets = list(datasets)
    joined.cumulative_sizes = joined.cumsum(joined.datasets)
    return joined


ONE, TWO = [(0, 0), (1, 1), (2, 1)], [(10, 2), (11, 0)]


@pytest.mark.parametrize(
    ("wrap", "expected"),
    [
        (lambda one, two: one, ONE),
        (lambda one, two: concat(one, two), ONE + TWO),
        (lambda one, two: concat(RepeatDataset(one, 3), two), ONE + TWO),
        (lambda one, two: RepeatDataset(one, 3), ONE),
        (lambda one, two: ClassBalancedDataset(one, 0.9), [(0, 0), (0, 0), *ONE[1:], *ONE[1:]]),
        (lambda one, two: concat(concat(one, RepeatDataset(two, 2)), two), ONE + TWO + TWO),
        (lambda one, two: Subset(concat(one, two), [0, 4]), [(0, 0), (11, 0)]),
        (lambda one, two: Subset(RepeatDataset(one, 2), [0, 4, 5]), ONE),
        (lambda one, two: Mixing(one, [augmented]), ONE),
        (lambda one, two: concat(Mixing(concat(one, two), [augmented]), one), ONE + ONE + TWO),
    ],
)
def test_wrapped_data_are_seen_once_without_augmentation(wrap, expected):
    one, two = numbers(0, 1, 1), numbers(2, 0, start=10)
    assert seen(wrap(one, two)) == sorted(expected)
    assert one.pipeline.transforms == [augmented]  # training reads on as it did
    with pytest.raises(AssertionError, match="with augmentation"):
        one[0]


def test_the_order_is_random_and_the_same_each_time():
    cfg = Config({"train_dataloader": {"batch_size": 2}, "val_dataloader": {"dataset": {"pipeline": [packed]}}})
    orders = []
    for seed in range(3):
        torch.manual_seed(seed)
        orders.append([int(x) for xs, _ in selection_batches(cfg, Model(), numbers(*[0] * 20)) for x in xs])
    assert orders[0] == orders[1] == orders[2] != sorted(orders[0])


@pytest.mark.parametrize("label", [[0, 2], []])
def test_several_labels_are_refused(label):
    with pytest.raises(UserError, match=r"selects by class, and the training samples .*\(1\.png\) have no class label"):
        seen(numbers(0, label, 1))


def test_one_label_each_in_a_list_is_one_label():
    assert seen(numbers([0], [2])) == [(0, 0), (1, 2)]


def test_what_cannot_be_read_otherwise_is_refused():
    class Own(Dataset):
        def __len__(self):
            return 1

    with pytest.raises(UserError, match="Own has no pipeline that could be replaced"):
        read_as(concat(numbers(0), Own()), Compose([]))
    with pytest.raises(UserError, match="needs a val_dataloader or test_dataloader whose dataset has a pipeline"):
        next(selection_batches(Config({"train_dataloader": {"batch_size": 2}}), Model(), numbers(0)))


def test_how_validation_reads_stands_inside_its_wrappers():
    inner = {"type": "RepeatDataset", "dataset": {"type": "x", "pipeline": [packed]}}
    cfg = {"train_dataloader": {"batch_size": 2}, "val_dataloader": None}
    cfg["test_dataloader"] = {"dataset": {"type": "ConcatDataset", "datasets": [inner, inner]}}
    assert len(list(selection_batches(Config(cfg), Model(), numbers(0, 1, 2)))) == 2


def test_the_config_may_be_all_there_is():
    DATASETS.register_module(module=Numbers, name="NumbersOfSelection", force=True)
    data = {"type": "NumbersOfSelection", "labels": [0, 1], "pipeline": [augmented]}
    cfg = {"train_dataloader": {"batch_size": 1, "dataset": {"type": "ConcatDataset", "datasets": [data, data]}}}
    cfg["val_dataloader"] = {"dataset": {"pipeline": [packed]}}
    assert len(list(selection_batches(Config(cfg), Model()))) == 4
