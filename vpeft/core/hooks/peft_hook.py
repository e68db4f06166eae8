"""What a run with PEFT needs of the Runner."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from mmengine import Config
from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import DATASETS
from mmengine.runner import BaseLoop, Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from vpeft.core.adaptation import Adaptation, backbone_prefix, find_adaptation, is_peft_key
from vpeft.core.adapter_file import adapter_metadata, check_base
from vpeft.core.auxiliary import add_losses
from vpeft.core.learning import training_data
from vpeft.core.report import parameter_report, render
from vpeft.errors import UserError
from vpeft.registry import HOOKS


@HOOKS.register_module()
class PEFTHook(Hook):
    """Small checkpoints that know their base, and an opening report.

    * Before training it prints which method sits at which sites and what is trained, and stops if nothing is.
    * Checkpoints hold PEFT parameters, head and what resume needs, not the frozen backbone; they carry the methods'
      configs, the host's description and a fingerprint of the base. The backbone's own pretrained file is needed to
      load one, and a checkpoint of another base is refused.
    """

    priority = "VERY_LOW"  # behind hooks that put weights into the checkpoint, such as EMAHook

    def before_run(self, runner: Runner) -> None:
        """Load the base in a test run too, where mmengine would leave it random: checkpoints do not hold it."""
        if not isinstance(runner._train_loop, BaseLoop):  # a config or None as long as nothing trains
            unwrap(runner.model).init_weights()

    def before_train(self, runner: Runner) -> None:
        """Report, check that something is trained, and select from the data what a method has to."""
        model = unwrap(runner.model)
        adaptation = find_adaptation(model)
        adaptation.check_trained()
        add_losses(model)
        if adaptation.waits_for_data:
            runner.logger.info("selecting from the training data, one pass without augmentation")
            adaptation.learn(training_data(model, selection_batches(runner.cfg, model)))
        report = parameter_report(model)
        runner.logger.info("\n" + render(report))
        if report.total == 0:
            raise UserError(
                "nothing is trained: neither the method nor a head has a parameter that asks for a gradient."
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen backbone out."""
        model = unwrap(runner.model)
        adaptation, prefix = find_adaptation(model), backbone_prefix(model)
        own = adaptation.own_keys()
        for name, state in checkpoint.items():
            if name in ("state_dict", "ema_state_dict"):
                head = "module." if name == "ema_state_dict" else ""
                for key in list(state):
                    inner = key.removeprefix(head)
                    if inner.startswith(prefix) and inner.removeprefix(prefix) not in own:
                        del state[key]
        checkpoint["peft"] = adapter_metadata(adaptation)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of other methods or of another base."""
        model = unwrap(runner.model)
        check_checkpoint(model, checkpoint, str(getattr(runner, "_load_from", None) or "the checkpoint"))


def selection_batches(cfg: Config, model: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """Preprocessed images and labels of the training set, once, in a fixed random order, read as in validation."""
    dataset = copy.deepcopy(cfg.train_dataloader.dataset)
    inner = dataset
    while "dataset" in inner:
        inner = inner.dataset
    reading = (cfg.get("val_dataloader") or cfg.test_dataloader).dataset
    while "dataset" in reading:
        reading = reading.dataset
    inner.pipeline = reading.pipeline
    data = DATASETS.build(dataset)
    order = RandomSampler(data, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(data, cfg.train_dataloader.batch_size, sampler=order, collate_fn=pseudo_collate)
    for batch in loader:
        batch = model.data_preprocessor(batch, False)
        labels = [class_label(sample) for sample in batch["data_samples"]]
        if any(label is None for label in labels):
            raise UserError("a method selects by class, and the training samples of this config have no class labels.")
        yield batch["inputs"], torch.cat(labels)


def class_label(sample: Any) -> Tensor | None:
    """The label of a training sample, in either of the places where it may be."""
    if hasattr(sample, "gt_label"):
        return sample.gt_label
    return getattr(getattr(sample, "gt_labels", None), "item", None)


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside a distributed wrapper."""
    return model.module if is_model_wrapper(model) else model


def check_checkpoint(model: nn.Module, checkpoint: dict[str, Any], where: str) -> None:
    """Refuse a checkpoint that does not belong to the adapted ``model``; a plain one (of the base) passes.

    Raises:
        UserError: Foreign keys, other methods, another host or other base weights.
    """
    adaptation: Adaptation = find_adaptation(model)
    metadata = checkpoint.get("peft")
    state = checkpoint.get("state_dict", checkpoint)
    if not isinstance(state, dict) or not any(key in model.state_dict() for key in state):
        raise UserError(f"{where} is a foreign checkpoint: none of its keys {list(state)[:3]} is in this model.")
    if metadata is None:
        if any(is_peft_key(key) for key in state):
            raise UserError(f"{where} holds PEFT parameters but not which method they belong to: train it again.")
        return
    own = [method.config() for method in adaptation.methods.values()]
    if metadata["methods"] != own:
        raise UserError(f"{where} was trained with {metadata['methods']}, this config has {own}: use its own config.")
    check_base(adaptation, metadata, where)
