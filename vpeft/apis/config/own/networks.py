"""The network that a user names: what it gives, and what it expects of images."""

from __future__ import annotations

import socket
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import nn

from vpeft.apis.config.own.bases import own_models
from vpeft.core.adaptation.base_weights import RANDOM
from vpeft.core.adaptation.peft_backbone import CLIPS, NETWORK
from vpeft.core.backbones.libraries import LIBRARIES, library
from vpeft.core.backbones.libraries.preprocessing import CONSTANTS, Preprocessing
from vpeft.core.backbones.load import load_backbone
from vpeft.core.models.build import meta_build
from vpeft.core.models.maps import Backbone
from vpeft.core.models.reading.reader import FILES as READ
from vpeft.core.trained.run import quiet
from vpeft.errors import UserError
from vpeft.registry import nearest

#: What a classifier reads of a network, in the order in which they are tried.
READ_OUT = ("pooled", "cls", "mean")
#: Families that read one feature.
FEATURES = ("classification", "video")
#: Depths at which a network of one resolution is read where several maps are asked for.
DEPTHS = 4


@dataclass(frozen=True)
class Network:
    """A network of a library as a backbone.

    Attributes:
        kind: ``plain`` for one of one resolution, ``stages`` for one of several: a key of the table of bases.
        settings: Of the backbone: ``vpeft.Backbone``, or ``vpeft.ClipBackbone`` for clips.
        channels: Width of every output.
        strides: Pixels from one place to the next of every map; empty for other outputs.
        preprocessing: What it expects of images.
    """

    kind: str
    settings: dict[str, Any]
    channels: tuple[int, ...]
    strides: tuple[float, ...]
    preprocessing: Preprocessing


def library_network(
    name: str,
    weights: str | None,
    family: str,
    image_size: int | None = None,
    normalisation: str | None = None,
    random_base: bool = False,
) -> Network:
    """A network by its library's name, tried out without memory.

    Args:
        name: Of :func:`~vpeft.core.backbones.load.load_backbone`.
        weights: A file or folder; None lets the library fetch its own.
        family: What is read of it: a feature for ``classification`` and ``video``, several maps for ``segmentation``,
            the last map, or those of all stages, for detection.
        image_size: Side that it is tried at.
        normalisation: A key of :data:`~vpeft.core.backbones.libraries.preprocessing.CONSTANTS`, where nothing else says
            what the network expects.
        random_base: A base without weights is meant.

    Raises:
        UserError: The network is unknown or cannot be read, it has no weights, or nothing says what it expects.
    """
    _check_name(name, family)
    if random_base and weights:
        raise UserError("--random-base beside --weights: leave one out.")
    of = _with_config(name, weights)
    shape, backbone = _tried(of, family)
    facts = _preprocessing(name, weights, normalisation)
    settings = {"type": CLIPS, "image": of} if family == "video" else {"type": NETWORK, "of": of, **shape}
    if random_base:
        settings["base"] = RANDOM
    elif of == name and weights:
        settings["weights"] = weights
    if not random_base:
        _need_weights(of, settings.get("weights"))
    channels = backbone.out_channels
    if family in FEATURES:
        settings["out"], channels = _read_out(of, backbone, image_size or facts.size)
    kind = "plain" if backbone.reader.plain else "stages"
    return Network(kind, settings, tuple(channels), tuple(backbone.strides), facts)


def _check_name(name: str, family: str) -> None:
    own = own_models(family)
    if "/" not in name and not Path(name).expanduser().is_dir():
        shown = ", ".join(f"{prefix}/..." for prefix, (package, _) in LIBRARIES.items() if package in READ)
        raise UserError(f"--model {name}: {nearest(name, own)} Or a library's: {shown}.")


def _with_config(name: str, weights: str | None) -> str:
    """The folder of the weights, where the library knows its models by the config that lies there alone."""
    prefix, _, rest = name.partition("/")
    if weights and prefix in LIBRARIES and rest and not library(prefix).by_name:
        path = Path(weights).expanduser()
        folder = path if path.is_dir() else path.parent
        if library(prefix).owns(folder):
            return str(folder.resolve())
    return name


def _tried(of: str, family: str) -> tuple[dict[str, Any], Backbone]:
    """What is read of a network, and the backbone, without memory."""
    with meta_build():
        if family in FEATURES:
            return {}, Backbone(of=of, weights=False, out=READ_OUT[0])
        backbone = Backbone(of=of, weights=False)
        depth, plain = len(backbone.reader.levels), backbone.reader.plain
        if plain and family != "segmentation":
            return {}, backbone  # the last map
        levels = [round(depth * (i + 1) / DEPTHS) - 1 for i in range(DEPTHS)] if plain else list(range(depth))[-DEPTHS:]
        return {"out_indices": levels}, Backbone(of=of, weights=False, out_indices=levels)


def _read_out(of: str, backbone: Backbone, size: int) -> tuple[str, list[int]]:
    """What a classifier reads, and its width: what the network's own does, else the class token, else the mean."""
    said: UserError | None = None
    for out in READ_OUT:
        try:
            with meta_build():
                backbone = backbone if out == READ_OUT[0] else Backbone(of=of, weights=False, out=out)
                with torch.no_grad():
                    return out, [one.shape[1] for one in backbone.eval()(torch.zeros(1, 3, size, size))]
        except UserError as error:
            said = said or error
    raise said


def _need_weights(of: str, weights: str | None) -> nn.Module | None:
    """Refuse a base without weights now, and not when training starts."""
    if weights is not None:
        if "://" not in weights and not Path(weights).expanduser().exists():
            raise UserError(f"--weights {weights}: no such file, seen from {Path.cwd()}.")
        return None
    _know_when_alone()
    try:
        with quiet():  # there is no log file yet
            return load_backbone(of)
    except UserError as error:
        raise UserError(
            f"{error} Here: --weights FILE; or --random-base, which trains on an untrained network."
        ) from error


def _know_when_alone() -> None:
    """Let the hub's client look into its cache alone where there is no network: it would ask for a minute."""
    from huggingface_hub import constants

    if urllib.request.getproxies():
        return
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        constants.HF_HUB_OFFLINE = True


def _preprocessing(name: str, weights: str | None, normalisation: str | None) -> Preprocessing:
    """What the network expects: the user's word, the library's, or that of a file beside the weights."""
    prefix, _, rest = name.partition("/")
    folders = [Path(one).expanduser() for one in (weights, name) if one]
    folder = next((f if f.is_dir() else f.parent for f in folders if f.exists()), None)
    owners = [prefix] if prefix in LIBRARIES and rest else list(LIBRARIES)
    found = None
    for one in owners:
        owner = library(one)
        if folder is not None and owner.owns(folder):
            found = owner.preprocessing("", folder)
        elif one == prefix and (normalisation is None or found is None):
            found = _by_name(owner, rest, normalisation)
        if found:
            break
    if normalisation is not None:
        if normalisation not in CONSTANTS:
            raise UserError(f"--normalisation {normalisation}: {nearest(normalisation, CONSTANTS)}")
        mean, std = CONSTANTS[normalisation]
        size, crop, interpolation = (found.size, found.crop, found.interpolation) if found else (224, 0.875, "bicubic")
        return Preprocessing(mean, std, size, interpolation, crop)
    if found is None:
        raise UserError(
            f"nothing says which mean and standard deviation {name} was trained with: state --normalisation "
            f"{', '.join(CONSTANTS)}, or lay its preprocessor_config.json beside the weights."
        )
    return found


def _by_name(owner: Any, name: str, normalisation: str | None) -> Preprocessing | None:
    try:
        return owner.preprocessing(name)
    except UserError:
        if normalisation is None:
            raise
        return None
