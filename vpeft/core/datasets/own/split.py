"""Dividing data into parts, by rule and seed: classes in equal shares, what looks the same on one side."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from sklearn.model_selection import StratifiedGroupKFold

from vpeft.core.datasets.own.found import TEST, TRAIN, VAL, OwnData
from vpeft.errors import UserError

#: So finely shares are cut.
MOST_FOLDS = 20


def split_parts(data: OwnData, groups: Sequence[int], val_share: float, test_share: float, seed: int) -> OwnData:
    """Give every sample its part.

    Parts that the data name stay. A validation part that they lack is cut from the training part, a test part from it
    where ``test_share`` asks for one; the test part is never validated on.

    Args:
        data: The data.
        groups: Number of the group of each sample; a group is not divided.
        val_share: Share of the samples that is validated on, 0 to 0.5 (0 where the data have such a part).
        test_share: Share that is tested on.
        seed: Of the division.

    Raises:
        UserError: A share is out of range, or there are too few samples.
    """
    for name, share in (("--val-share", val_share), ("--test-share", test_share)):
        if not 0 <= share <= 0.5:
            raise UserError(f"{name} {share}: a share of the images is 0 to 0.5.")
    parts, strata = [sample.part or TRAIN for sample in data.samples], _strata(data)
    for part, share in ((TEST, test_share), (VAL, val_share)):
        if part in parts and share and part == TEST:
            raise UserError(f"--test-share {share}: the data have a test part of their own: leave it out.")
        if part in parts or (part == TEST and not share):
            continue
        free = [index for index, one in enumerate(parts) if one == TRAIN]
        share = share * len(parts) / len(free) if part == VAL and TEST in parts and data.part(None) else share
        if not share:
            raise UserError("--val-share 0, and the data have no validation part: the best moment is chosen on one.")
        chosen = _chosen([strata[i] for i in free], [groups[i] for i in free], share, seed)
        for index in chosen:
            parts[free[index]] = part
    _check(data, parts)
    return data.with_samples(replace(sample, part=part) for sample, part in zip(data.samples, parts, strict=True))


def _strata(data: OwnData) -> list[int]:
    """What each sample counts as: the rarest class that it shows; -1 where it shows none."""
    counts = Counter(label for sample in data.samples for label in sample.labels)
    return [min(sample.labels, key=lambda label: (counts[label], label), default=-1) for sample in data.samples]


def _chosen(strata: Sequence[int], groups: Sequence[int], share: float, seed: int) -> list[int]:
    """Places of the samples that are taken out."""
    several = len(set(groups))
    if several < 2:
        raise UserError("all images look the same, or there is one alone: there is nothing to validate on.")
    most = max(Counter(strata).values())
    if most < 2:
        raise UserError("every class has one image alone: there is nothing to validate on; give each a few.")
    whole = round(1 / share) if share else 2
    folds = max(2, min(whole if abs(whole * share - 1) < 0.05 else MOST_FOLDS, several, most))
    wanted = max(1, round(share * folds))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes with fewer samples than folds
        dealt = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(strata, strata, groups)
        chosen = {int(i) for _, (_, held) in zip(range(wanted), dealt, strict=False) for i in held}
    return sorted(_without_whole_classes(chosen, strata, groups))


def _without_whole_classes(chosen: set[int], strata: Sequence[int], groups: Sequence[int]) -> set[int]:
    """Give back groups of classes of which nothing would be left to learn from."""
    for stratum in sorted(set(strata)):
        members = [i for i, one in enumerate(strata) if one == stratum]
        if all(i in chosen for i in members):
            back = {groups[members[0]]}
            chosen = {i for i in chosen if groups[i] not in back}
    return chosen


def _check(data: OwnData, parts: Sequence[str]) -> None:
    for part in (TRAIN, VAL):
        if part not in parts:
            raise UserError(
                f"{len(parts)} images are too few: none is left {'to train' if part == TRAIN else 'to validate'} on"
                f"{'' if part == TRAIN else ' (--val-share)'}."
            )
    learned = {
        label for sample, part in zip(data.samples, parts, strict=True) if part == TRAIN for label in sample.labels
    }
    missing = [name for label, name in enumerate(data.classes) if label not in learned]
    if missing and data.family != "segmentation":
        raise UserError(f"the class {missing[0]!r} has no image in the training part: there is nothing to learn of it.")
