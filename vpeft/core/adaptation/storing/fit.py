"""Does what is stored fit a model, and what the model is about to be used for?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from vpeft.core.contract.build import build_method
from vpeft.core.contract.method import Method
from vpeft.core.families.classes import named_classes
from vpeft.errors import UserError


def check_methods(methods: Iterable[Method], theirs: Sequence[Mapping[str, Any]], where: str) -> None:
    """Refuse an adapter of other methods than those that are attached.

    Args:
        methods: What is attached.
        theirs: The configs of the stored methods.
        where: The file.

    Raises:
        UserError: They differ, or the file names a method or a setting that is not there.
    """
    own = [method.config() for method in methods]
    # A file of before a setting was there means its default.
    if own != [build_method(one).config() for one in theirs]:
        raise UserError(
            f"{where} was trained with {theirs}; this config has {own}, which is attached: detach it first, or use the "
            "config that it was made by."
        )


def check_tensors(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], where: str, remedy: str) -> None:
    """Refuse tensors of other names, shapes or kinds of number than a model's.

    Args:
        tensors: The stored ones, by their keys in the model.
        own: The model's.
        where: The file.
        remedy: What to do where the names differ.

    Raises:
        UserError: They differ.
    """
    missing, unexpected = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or unexpected:
        raise UserError(
            f"{where} does not fit: {len(missing)} keys missing {missing[:3]}, {len(unexpected)} unexpected "
            f"{unexpected[:3]}. {remedy}"
        )
    for key, value in tensors.items():
        if own[key].shape != value.shape:
            raise UserError(
                f"{where}: {key} has the shape {tuple(value.shape)}, this model {tuple(own[key].shape)}: "
                "hyper-parameters or the number of classes differ."
            )
        if own[key].is_floating_point() != value.is_floating_point() or (
            not value.is_floating_point() and own[key].dtype != value.dtype
        ):
            raise UserError(f"{where}: {key} is of {value.dtype}, this model's of {own[key].dtype}: train it again.")


def stated_classes(dataset: Any) -> list[str] | None:
    """Names of a data set's classes, None where it does not state them."""
    return list(named_classes(dataset)) or None


def check_task(
    metadata: Mapping[str, Any], where: str, task: str | None = None, classes: Sequence[str] | None = None
) -> None:
    """Refuse a head of another task or of other classes; what is not known on one side is not compared.

    Args:
        metadata: What the file says.
        where: The file.
        task: Name of the present task.
        classes: Names of its classes.

    Raises:
        UserError: They differ.
    """
    if not metadata.get("head", True):
        return
    advice = "use the config and the data that it was trained by, or store it without its head (head=False)."
    stored = metadata.get("task")
    if task is not None and stored is not None and stored != task:
        raise UserError(f"{where} was trained on the task {_quoted(stored)}, and this is {_quoted(task)}: {advice}")
    names = metadata.get("classes")
    if names is None or classes is None or list(names) == list(classes):
        return
    if len(names) != len(classes):
        raise UserError(f"{where} knows {len(names)} classes, and these data have {len(classes)}: {advice}")
    place = next(i for i, (a, b) in enumerate(zip(names, classes, strict=True)) if a != b)
    raise UserError(
        f"{where} was trained on other classes: number {place} is {_quoted(names[place])} there, "
        f"{_quoted(classes[place])} in these data: {advice}"
    )


def _quoted(name: str) -> str:
    return ascii(name if len(name) <= 60 else f"{name[:57]}...")
