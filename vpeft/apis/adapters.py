"""The life of an adapter, from Python."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from vpeft.core.adaptation.attach import attach as attach_methods
from vpeft.core.adaptation.find import find_adaptation, get_adaptation
from vpeft.core.adaptation.storing.adapter_file import read_adapter, save_adapter, write_adapter
from vpeft.core.adaptation.training.selection_data import training_data
from vpeft.core.backbones.host import is_peft_key
from vpeft.core.contract.build import build_methods
from vpeft.core.contract.method import Method
from vpeft.errors import UserError

__all__ = [
    "attach",
    "detach",
    "disabled",
    "learn",
    "load_adapter",
    "merge",
    "plain_state_dict",
    "save_adapter",
    "unmerge",
]

MethodConfig = str | Mapping[str, Any] | Method | Sequence[Any]


def attach(model: nn.Module, cfg: MethodConfig) -> nn.Module:
    """Attach one method or several to the backbone inside ``model``, in place, after its weights were loaded.

    The base is frozen but for what the methods train; whatever lies outside the backbone stays trainable.

    Args:
        model: A model that contains a host (``tools/list.py hosts``), or the backbone itself.
        cfg: ``dict(type='LoRA', rank=8)``, a name, a method, or a list of these.

    Returns:
        The same model.

    Raises:
        UserError: Unknown method, host or hyper-parameter; the model is unchanged then.
    """
    attach_methods(model, build_methods(cfg))
    return model


def detach(model: nn.Module, restore: bool = True) -> nn.Module:
    """Take the adapter off, in place.

    Args:
        model: A model with a method attached.
        restore: Give the base its own weights back, bit-equal. False keeps merged and trained weights.
    """
    find_adaptation(model).detach(restore)
    return model


def learn(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> nn.Module:
    """Let the methods select from training data what they have to before training (SCT, GPS), in place.

    ``tools/train.py`` does it by itself. Without it such a method trains the first channels or entries.

    Args:
        model: A model with a method attached.
        batches: Pairs of images ``(B, 3, H, W)``, preprocessed, without augmentation, and labels ``(B,)``.
    """
    find_adaptation(model).learn(training_data(model, batches))
    return model


@contextmanager
def disabled(model: nn.Module) -> Iterator[nn.Module]:
    """Within the context, ``model`` is the frozen base: ``with vpeft.disabled(model): ...``."""
    with find_adaptation(model).disabled():
        yield model


def merge(model: nn.Module) -> list[str]:
    """Fold the adapter into the weights, in place (:meth:`vpeft.core.adaptation.adaptation.Adaptation.merge`).

    Returns:
        Keys of methods of which something stays in place; empty when the plain backbone now does it all.
    """
    return find_adaptation(model).merge()


def unmerge(model: nn.Module) -> nn.Module:
    """Undo :func:`merge`, bit for bit."""
    find_adaptation(model).unmerge()
    return model


def plain_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state dict without any PEFT key: strictly what the plain model has."""
    return {key: value for key, value in model.state_dict().items() if not is_peft_key(key)}


def load_adapter(model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Load an adapter file onto its base, in place.

    Args:
        model: The plain model with the base weights (the methods are attached then), or one on which exactly the
            file's methods are attached.
        path: A file written by :func:`save_adapter`.

    Raises:
        UserError: The file is broken, or belongs to another host, base or method; the model is unchanged then.
    """
    tensors, metadata = read_adapter(path)
    adaptation = get_adaptation(model)
    if adaptation is None:
        attach(model, metadata["methods"])
        try:
            write_adapter(model, tensors, metadata, str(path))
        except UserError:
            detach(model)
            raise
        return model
    own = [method.config() for method in adaptation.methods.values()]
    if own != metadata["methods"]:
        raise UserError(f"{path} holds {metadata['methods']}, and {own} is attached: detach it first.")
    if adaptation.merged:
        raise UserError(f"{path}: the present adapter is merged: unmerge or detach it first.")
    write_adapter(model, tensors, metadata, str(path))
    return model
