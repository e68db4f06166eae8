"""The classes of the data against those of the heads: one check for all families of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import Dataset

from vpeft.core.adaptation.find import adaptations
from vpeft.core.adaptation.wrappers import unwrap
from vpeft.core.families.classes import class_counts, head_counts, labels_of, named_classes, parts
from vpeft.errors import UserError

#: So many names are written out in a message.
SHOWN = 10


def check_data(runner: Runner, labels: bool = True) -> None:
    """Compare the heads of a run's model with all data that the run will read, before it reads any.

    Too few classes would end training deep in a loss, too many would train and test without a word. A class that no
    training sample has is warned of.

    Args:
        runner: The runner, with the loops that will run.
        labels: Look at the labels and label maps too, not at the numbers of classes alone.

    Raises:
        UserError: A data set is empty, has another number of classes than a head, or holds a label or a value in a
            label map that is none of the classes; the message names head, data set and sample.
    """
    model = unwrap(runner.model)
    heads = head_counts(model, [adaptation.host.backbone for adaptation in adaptations(model).values()])
    loops = {"train": runner._train_loop, "val": runner._val_loop, "test": runner._test_loop}
    used = {  # a loop is a config or None as long as it is not used
        f"{name}_dataloader": loop.dataloader.dataset for name, loop in loops.items() if isinstance(loop, BaseLoop)
    }
    for where, dataset in used.items():
        check_class_count(heads, dataset, where)
    compare_names(runner, used)
    for where, dataset in used.items() if labels else ():
        seen = count_labels(model, heads, dataset, where)
        if where.startswith("train") and seen is not None:
            warn_of_unseen(runner, seen, dataset)


def check_class_count(heads: Mapping[str, int], dataset: Dataset, where: str) -> None:
    """Refuse a data set that has no sample, or whose number of classes is not that of the heads.

    Args:
        heads: Names and numbers of classes (:func:`~vpeft.core.families.classes.head_counts`).
        dataset: The data set, in whatever wrappers.
        where: The field of the config that it is of, for messages.

    Raises:
        UserError: As above.
    """
    for part in parts(dataset):
        kind, counts = f"{where}: {type(part).__name__}", class_counts(part)
        if hasattr(part, "__len__") and len(part) == 0:
            raise UserError(f"{kind} has no samples: look at its files, its filter_cfg and its indices.")
        for name, count in heads.items():
            if counts and count not in counts:
                names = named_classes(part)
                raise UserError(
                    f"model.{name} has num_classes={count}, {kind} has {max(counts)} classes"
                    f"{f' ({_some(names)})' if names else ''}: set num_classes of every head to the number of classes."
                )


def compare_names(runner: Runner, used: Mapping[str, Dataset]) -> None:
    """Say where data sets of one run name their classes differently: folders, for instance, are counted as they sort.

    Raises:
        UserError: They name the same classes in another order, so that a label means another class.
    """
    first: tuple[str, tuple[str, ...]] | None = None
    for where, dataset in used.items():
        for part in parts(dataset):
            names = named_classes(part)
            first = first or ((where, names) if names else None)
            if first is None or not names or names == first[1]:
                continue
            index = next((i for i, (one, two) in enumerate(zip(first[1], names, strict=False)) if one != two), -1)
            text = f"class {index} is {first[1][index]!r} in {first[0]} and {names[index]!r} in {where}"
            if sorted(names) == sorted(first[1]):
                raise UserError(f"{text}: give both the same order of classes (metainfo.classes).")
            runner.logger.warning(f"{text}: the data sets name their classes differently.")


def count_labels(model: nn.Module, heads: Mapping[str, int], dataset: Dataset, where: str) -> np.ndarray | None:
    """How often each class occurs in a data set, ``(classes,)``; None where neither model nor data state classes.

    Raises:
        UserError: A label is no whole number, negative or beyond the classes.
    """
    if not heads:
        return None
    name, classes = max(heads.items(), key=lambda item: item[1])
    total, known = np.zeros(classes, np.int64), False
    for part in parts(dataset):
        maps = _label_maps(model, part, classes, where)
        if maps is not None:
            total, known = total + maps, True
        for sample, labels in labels_of(part):
            known = True
            for label in labels:
                if _is_unlabelled(label, where):
                    continue
                if not _is_class(label, classes):
                    raise UserError(
                        f"{where}: {type(part).__name__}: {sample} has the label {label!r}: the classes are the whole "
                        f"numbers 0 to {classes - 1} (model.{name}.num_classes={classes}). Correct it, or the number "
                        "of classes."
                    )
                total[int(label)] += 1
    return total if known else None


def _is_unlabelled(label: Any, where: str) -> bool:
    """Whether a test sample stands for one without a label: mmaction gives those of its lists -1."""
    return where.startswith("test") and isinstance(label, int) and label == -1


def _is_class(label: Any, classes: int) -> bool:
    """Whether a label is a whole number of the classes."""
    number = isinstance(label, (int, float, np.number, np.bool_))
    return number and 0 <= label < classes and label == int(label)  # NaN is in no interval


def _label_maps(model: nn.Module, part: Dataset, classes: int, where: str) -> np.ndarray | None:
    """Pixels of each class in the label maps of a data set of mmseg; None where it has none."""
    info = part.get_data_info(0) if hasattr(part, "get_data_info") else {}
    if not {"seg_map_path", "reduce_zero_label"} <= set(info):
        return None
    from vpeft.core.datasets.segmentation.label_maps import count_values

    ignored = {module.ignore_index for module in model.modules() if type(getattr(module, "ignore_index", None)) is int}
    return count_values(part, classes, ignored, where)


def warn_of_unseen(runner: Runner, seen: np.ndarray, dataset: Dataset) -> None:
    """Say which classes no training sample has.

    Raises:
        UserError: No sample has any.
    """
    missing = np.flatnonzero(seen == 0)
    if len(missing) == len(seen):
        raise UserError("train_dataloader: no sample has a label of any class: there is nothing to learn.")
    if len(missing):
        names = named_classes(next(parts(dataset)))
        shown = [names[i] if i < len(names) else f"class {i}" for i in missing]
        runner.logger.warning(
            f"train_dataloader: {len(missing)} of {len(seen)} classes never occur in the training data, so nothing is "
            f"learned of them: {_some(shown)}."
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
