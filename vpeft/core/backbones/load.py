"""Building a backbone by a library's name for it, with its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from vpeft.core.backbones.libraries import LIBRARIES, Library, is_installed, library
from vpeft.core.backbones.weights.load import load_pretrained
from vpeft.core.backbones.weights.remembered import remember_weights
from vpeft.errors import UserError, closest, one_line

#: Attribute of a module; as a plain value it goes along where the module is copied or pickled.
_BUILT = "vpeft_built"


def load_backbone(name: str, weights: str | Path | bool | None = None, **options: Any) -> nn.Module:
    """A backbone of timm, HuggingFace transformers, torchvision, open_clip or mmpretrain.

    Args:
        name: The library and its own name for the model: ``timm/vit_base_patch14_dinov2``,
            ``hf/facebook/dinov2-base``, ``torchvision/swin_t``, ``open_clip/ViT-B-16/laion2b_s34b_b88k`` (with the tag
            of the weights), ``mmpretrain/vit-base-p16_in21k-pre_3rdparty_ft-64xb64_in1k-384``. Or a folder with a
            ``config.json`` of transformers or timm, or an ``open_clip_config.json``; ``hf/dinov2``, a type of
            transformers, is built by its defaults and ``options``.
        weights: A file or folder, in any format that :func:`load_pretrained` knows; None lets the library fetch its own
            weights, and takes those in the folder where ``name`` is one; False builds without weights.
        options: Of the library's own function, such as ``num_classes`` in timm, fields of the config in transformers
            and of the vision tower's in open_clip.

    Returns:
        The model in eval mode: of open_clip and of CLIP-like models of transformers the vision tower, of mmpretrain the
        backbone. Models of transformers have no pooler unless ``add_pooling_layer=True``.

    Raises:
        UserError: Library or model are unknown, options or weights do not fit, or the weights cannot be fetched.
    """
    if weights is True:
        raise UserError("weights=True of load_backbone: a file, None for the library's own weights, or False for none.")
    try:
        model = _built(str(name), weights, options)
    except UserError as error:
        raise UserError(f"load_backbone({str(name)!r}): {error}") from error
    model.train(False)
    setattr(model, _BUILT, {"of": str(name), "options": options})
    return model


def built_by(model: nn.Module) -> dict[str, Any] | None:
    """Name and options of :func:`load_backbone` that a model was built by, ``of`` and ``options``; None of another."""
    return getattr(model, _BUILT, None)


def _built(name: str, weights: str | Path | bool | None, options: dict[str, Any]) -> nn.Module:
    if weights and "://" not in str(weights) and not Path(weights).expanduser().exists():
        raise UserError(f"weights={str(weights)!r}: no such file, seen from {Path.cwd()}.")
    folder = _folder(name)
    if folder is not None:
        owner, weights = _owner(folder), folder if weights is None else weights
        model = _asked(lambda: owner.build_from(folder, **options), False)
    else:
        owner, own_name = _parsed(name)
        if weights is None:
            weights = owner.address(own_name)
        is_fetched, beside = weights is None, _config_beside(weights, owner)
        if beside is None:
            model = _asked(lambda: owner.build(own_name, is_fetched, **options), is_fetched)
        else:
            model = _asked(lambda: owner.build_from(beside, **options), False)
    if weights is False:
        remember_weights(model, None)
    elif weights is not None:
        load_pretrained(model, str(weights))
    return model


def _asked(build: Callable[[], nn.Module], is_fetched: bool) -> nn.Module:
    """What a library builds; what it raises in one line."""
    try:
        return build()
    except UserError:
        raise
    except Exception as error:  # of the network, the hub and the libraries: many kinds
        said = f"{type(error).__name__}: {one_line(error, 300)}"
        if is_fetched or isinstance(error, OSError):
            raise UserError(
                f"could not be fetched or built ({said}). Without a network give weights=FILE (for hf/ a folder with "
                "its config.json), or weights=False for none."
            ) from error
        raise UserError(f"the library does not build it with these options ({said}).") from error


def _folder(name: str) -> Path | None:
    """The folder that a name stands for; None where it is a library's name."""
    prefix, _, rest = name.partition("/")
    path = Path(rest if prefix == "hf" else name).expanduser()
    if path.is_dir() and (prefix not in LIBRARIES or prefix == "hf") and path != Path():
        return path
    if path.is_absolute() or name.startswith("."):
        raise UserError(f"no such folder, seen from {Path.cwd()}.")
    return None


def _config_beside(weights: str | Path | bool | None, owner: Library) -> Path | None:
    """The folder of the weights, where the library knows its models by their config alone and one lies there."""
    if owner.by_name or not isinstance(weights, (str, Path)):
        return None
    path = Path(weights).expanduser()
    folder = path if path.is_dir() else path.parent
    return folder if owner.owns(folder) else None


def _owner(folder: Path) -> Library:
    """The library that a folder's config is of."""
    for prefix in LIBRARIES:
        if is_installed(prefix) and (found := library(prefix)).owns(folder):
            return found
    raise UserError("a folder without a config of transformers, timm or open_clip: name the model, and weights=FILE.")


def _parsed(name: str) -> tuple[Library, str]:
    """The library before the first slash, and the name behind it."""
    prefix, _, rest = name.partition("/")
    if prefix in LIBRARIES and rest:
        return library(prefix), rest
    known = ", ".join(f"{one}/" for one in LIBRARIES)
    if rest:
        near = closest(prefix, LIBRARIES)
        ways = [f"{near}/{rest}"] * (near is not None) + [f"hf/{name} for one of the HuggingFace hub"]
        raise UserError(f"no library {prefix!r}: did you mean {', or '.join(ways)}? Libraries: {known}.")
    holders = [one for one in LIBRARIES if is_installed(one) and name.partition(".")[0] in library(one).names()]
    hint = f" did you mean {' or '.join(repr(f'{one}/{name}') for one in holders)}?" if holders else ""
    raise UserError(f"say of which library it is, before a slash:{hint} Libraries: {known}.")
