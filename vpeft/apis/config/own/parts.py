"""What the settings of all families have in common: loaders, evaluators, the adapted backbone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpeft.apis.config.own.defaults import RunNumbers
from vpeft.apis.config.own.networks import Network
from vpeft.core.adaptation.peft_backbone import adapted_settings
from vpeft.core.backbones.libraries.preprocessing import Preprocessing
from vpeft.core.datasets.own.found import TEST, TRAIN, VAL
from vpeft.registry import PEFT_METHODS


@dataclass(frozen=True)
class OwnParts:
    """What there is of a run.

    Attributes:
        root: Folder that the paths in the lists are below of.
        lists: The lists by part.
        classes: Names of the classes.
        plan: The numbers of the run.
        size: Side of the images in pixels.
        augmentation: What is done to training images at random.
        preprocessing: What the model expects.
        network: The network of a library; None for a model of this project's own configs.
    """

    root: Path
    lists: Mapping[str, Path]
    classes: Sequence[str]
    plan: RunNumbers
    size: int
    augmentation: str
    preprocessing: Preprocessing
    network: Network | None

    def adapted(self, method: Any) -> dict[str, Any]:
        """The backbone's settings, with a method."""
        plain, method = dict(self.network.settings), _left_to_the_host(method)
        base = {"base": plain.pop("base")} if "base" in plain else {}
        return {**adapted_settings(plain, method), **base}

    def loaders(
        self,
        data: Mapping[str, Any],
        train: Sequence[Mapping[str, Any]],
        held: Sequence[Mapping[str, Any]],
        held_batch: int,
        evaluator: Callable[[str], Any],
        filtered: Mapping[str, Any] | None = None,
        drop_last: bool = False,
    ) -> dict[str, Any]:
        """Loaders and evaluators of all parts.

        Args:
            data: Settings of the data set that the parts share.
            train: Pipeline of training.
            held: Pipeline of validation and test.
            held_batch: Samples of a step in validation and test.
            evaluator: Gives the metric for the file of a list.
            filtered: Further settings of the training data alone.
            drop_last: Leave out a last step that is smaller than the others.
        """
        shared = {
            "num_workers": self.plan.workers,
            "persistent_workers": False,
            "worker_init_fn": {"type": "vpeft_keep_seed"},
        }
        info = {"metainfo": {"classes": list(self.classes)}, "data_root": str(self.root), **data}
        found: dict[str, Any] = {
            "train_dataloader": {
                "batch_size": self.plan.batch,
                **shared,
                "sampler": {"type": "DefaultSampler", "shuffle": True},
                "dataset": {**info, "ann_file": str(self.lists[TRAIN]), "pipeline": list(train), **(filtered or {})},
            }
        }
        if drop_last:
            found["train_dataloader"]["drop_last"] = True
        for part in (VAL, TEST):
            if part in self.lists:
                file = str(self.lists[part])
                found[f"{part}_dataloader"] = {
                    "batch_size": held_batch,
                    **shared,
                    "sampler": {"type": "DefaultSampler", "shuffle": False},
                    "dataset": {**info, "ann_file": file, "pipeline": list(held), "test_mode": True},
                }
                found[f"{part}_evaluator"] = evaluator(file)
                found[f"{part}_cfg"] = {}
        return found


def _left_to_the_host(method: Mapping[str, Any]) -> dict[str, Any]:
    """A method without what it chooses by the host where nothing is said, such as the linears that are adapted."""
    kind = PEFT_METHODS.get(method["type"])
    chosen = {name for name, default in kind.hyper_parameters().items() if default is None}
    return {key: value for key, value in method.items() if key not in chosen}
