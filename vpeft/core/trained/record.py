"""What a file says of the run that it is of, as JSON: enough to build its model and to read images for it.

It stands as ``run`` in the metadata of adapter files, checkpoints and merged files, under their sum. Older files have
none, and older vpeft pass over it.

=================  ===================================================================================================
``family``         ``classification``, ``detection``, ``segmentation`` or ``video``; ``scope`` is the OpenMMLab package
``backbone``       its name: a type of the scope, or a library's name such as ``timm/vit_base_patch14_dinov2``
``preprocessing``  what other tools need: :func:`stated_preprocessing`
``config``         fields of the run's config: model, data preprocessor, how a test image is read, images of a batch;
                   a tuple is ``{"tuple": [...]}``; None where JSON cannot say them
``network``        instead of a config: name and options of the network of ``load_backbone`` that was adapted
=================  ===================================================================================================
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine import Config
from mmengine.registry import MODELS, TASK_UTILS, TRANSFORMS, WEIGHT_INITIALIZERS, Registry

from vpeft.core.adaptation.peft_backbone import find_peft
from vpeft.core.families.metrics import FAMILIES
from vpeft.core.trained.reading import test_reader
from vpeft.errors import UserError, missing_package
from vpeft.files import schema_fault
from vpeft.registry import PEFT_METHODS

_TUPLE = "tuple"
#: What a model and its reader are built of, and what mmdet looks up by its name among mmcv's operators.
_BUILT = (MODELS, TASK_UTILS, TRANSFORMS, WEIGHT_INITIALIZERS, PEFT_METHODS)
_FILES = ("checkpoint", "weights", "of")
_OPERATORS = ("nms", "soft_nms", "nms_rotated", "RoIAlign", "RoIPool", "RoIAlignRotated", "DeformRoIPool")
_TEXT = {"type": ["string", "null"]}
SCHEMA = {
    "type": "object",
    "required": ["family", "scope", "backbone", "preprocessing", "config"],
    "properties": {
        "family": _TEXT,
        "scope": _TEXT,
        "backbone": _TEXT,
        "preprocessing": {"type": ["object", "null"]},
        "network": {
            "type": "object",
            "required": ["of", "options"],
            "properties": {"of": {"type": "string"}, "options": {"type": "object"}},
        },
        "config": {
            "type": ["object", "null"],
            "required": ["model", "data_preprocessor", "pipeline", "batch_size"],
            "properties": {
                "model": {"type": "object"},
                "data_preprocessor": {"type": ["object", "null"]},
                "pipeline": {"type": "array", "items": {"type": "object"}},
                "batch_size": {"type": "integer", "minimum": 1},
            },
        },
    },
}


def run_record(cfg: Config) -> dict[str, Any] | None:
    """The record of a run's config; None where the config states no model."""
    model = cfg.get("model")
    if not isinstance(model, Mapping):
        return None
    scope = cfg.get("default_scope")
    steps, batch_size = test_reader(cfg)
    preprocessor = cfg.get("data_preprocessor") or model.get("data_preprocessor")
    try:
        config = {
            "model": _plain(model),
            "data_preprocessor": _plain(cfg.get("data_preprocessor")),
            "pipeline": _plain(steps),
            "batch_size": batch_size,
        }
    except TypeError:
        config = None
    return {
        "family": FAMILIES.get(scope),
        "scope": scope,
        "backbone": find_peft(cfg)[1].get("of"),
        "preprocessing": stated_preprocessing(steps, preprocessor or {}) if config else None,
        "config": config,
    }


def record_config(record: Mapping[str, Any], where: str) -> Config:
    """The config that a record holds: ``default_scope``, ``model``, ``data_preprocessor``, ``test_dataloader``.

    Nothing but what OpenMMLab, vpeft and what was imported have registered as parts of models or steps of reading is
    built from it: a file cannot name other code.

    Raises:
        UserError: It is no record, or asks for a part that is not registered.
    """
    check_record(record, where)
    stored, scope = record["config"], record["scope"]
    if stored is None:
        raise UserError(f"{where} does not hold its run's config, which JSON cannot say: load its folder instead.")
    config = _restored(stored)
    _check_types(config, scope, where)
    dataset = {"pipeline": config["pipeline"]}
    return Config(
        {
            "default_scope": scope or "mmengine",
            "model": config["model"],
            "data_preprocessor": config["data_preprocessor"],
            "test_dataloader": {"batch_size": config["batch_size"], "dataset": dataset},
        }
    )


def network_config(record: Mapping[str, Any], where: str) -> Config:
    """How images are read for a network of ``load_backbone`` that was adapted in Python.

    Raises:
        UserError: It is no such record, or nobody has stated the preprocessing.
    """
    check_record(record, where)
    _check_texts(record["network"], where)
    stated = record["preprocessing"]
    if stated is None:
        raise UserError(
            f"{where} does not say how its images are read: save it with preprocessing=dict(size=..., mean=..., "
            "std=...), or load it into a model of your own (vpeft.load_adapter)."
        )
    sizes = {"Resize": "scale", "ResizeEdge": "scale", "CenterCrop": "crop_size"}
    steps: list[dict[str, Any]] = [{"type": "vpeft.LoadImage"}]
    try:
        for step in stated["resize"]:
            rest = {key: value for key, value in step.items() if key not in ("mode", "size")}
            size = tuple(step["size"]) if isinstance(step["size"], list) else step["size"]
            steps.append({"type": step["mode"], sizes[step["mode"]]: size, **rest})
        preprocessor = {"mean": list(stated["mean"]), "std": list(stated["std"]), "to_rgb": True}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: its preprocessing is of no form that is known ({error}): save it again.") from error
    dataset = {"pipeline": [*steps, {"type": "PackInputs"}]}
    loader = {"batch_size": 32, "dataset": dataset}
    return Config({"default_scope": "mmpretrain", "data_preprocessor": preprocessor, "test_dataloader": loader})


def check_record(record: Any, where: str) -> None:
    """Refuse what is no record.

    Raises:
        UserError: It does not follow the schema.
    """
    if error := schema_fault(record, SCHEMA):
        place = ".".join(map(str, error.absolute_path)) or "as a whole"
        raise UserError(f"{where} does not describe its run ({place}: {ascii(error.message)[1:100]}): train it again.")


def stated_preprocessing(steps: list[Mapping[str, Any]], preprocessor: Mapping[str, Any]) -> dict[str, Any]:
    """What is done to an image, in words that other tools have too.

    Returns:
        ``resize``: the steps that change the size, each with ``mode``, ``size`` and ``interpolation``; ``mean`` and
        ``std`` by channel, for values of 0 to 255 (None where nothing is subtracted); ``channels``, ``RGB`` or
        ``BGR``, the order in which the network sees them; ``range`` of the values before ``mean`` and ``std``.
    """
    swaps = any(preprocessor.get(key) for key in ("to_rgb", "bgr_to_rgb"))
    is_clip = any("Decode" in str(step["type"]) for step in steps)
    mean, std = preprocessor.get("mean"), preprocessor.get("std")
    return {
        "resize": [found for step in steps if (found := _resizing(step)) is not None],
        "mean": None if mean is None else [float(value) for value in mean],
        "std": None if std is None else [float(value) for value in std],
        "channels": "RGB" if swaps or is_clip else "BGR",
        "range": [0, 255],
    }


def _resizing(step: Mapping[str, Any]) -> dict[str, Any] | None:
    """A step that changes the size, by what the OpenMMLab packages call its settings."""
    name = str(step["type"]).rpartition(".")[2]
    size = next((step[key] for key in ("scale", "crop_size", "size") if step.get(key) is not None), None)
    if size is None or not re.search("Resize|Crop|Pad", name):
        return None
    found = {"mode": name, "size": list(size) if isinstance(size, (list, tuple)) else size}
    if "Resize" in name:
        found["interpolation"] = step.get("interpolation", "bilinear")
    return found | {key: step[key] for key in ("edge", "keep_ratio") if key in step}


def _plain(value: Any) -> Any:
    """A config's value as JSON holds it.

    Raises:
        TypeError: JSON cannot say it.
    """
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value) or _TUPLE in value:
            raise TypeError(f"keys {list(value)}")
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, tuple):
        return {_TUPLE: [_plain(one) for one in value]}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a {type(value).__name__}")


def _restored(value: Any) -> Any:
    if isinstance(value, Mapping):
        if value.keys() == {_TUPLE}:
            return tuple(_restored(one) for one in value[_TUPLE])
        return {key: _restored(one) for key, one in value.items()}
    return [_restored(one) for one in value] if isinstance(value, list) else value


def _check_types(config: Mapping[str, Any], scope: str | None, where: str) -> None:
    if scope not in (*FAMILIES, "mmengine", None):
        raise UserError(f"{where}: its run is of the package {ascii(scope)[:40]}, which vpeft does not know.")
    names = list(_types(config))
    packages = {str(name).rpartition(".")[0] for name in names} & FAMILIES.keys()
    for package in sorted({*packages, scope} & FAMILIES.keys()):
        try:
            importlib.import_module(f"{package}.registry")
        except ImportError as error:
            raise UserError(f"{where} is of a run of {package}: {missing_package(error) or error}") from error
    known = {name for root in _BUILT for name in registered_names(root)}
    for name in names:
        package, dot, own = name.rpartition(".") if isinstance(name, str) else ("", "", "")
        if own not in (*known, *_OPERATORS) or (dot and package not in (*FAMILIES, "mmengine", "mmcv", "vpeft")):
            raise UserError(
                f"{where}: its run's config asks for {ascii(name)[:80]}, which is no registered part of a model: "
                "import the package that registers it first."
            )
    _check_texts(config, where)


def _check_texts(config: Any, where: str) -> None:
    """Refuse texts that some part might run: dtypes that mmpretrain evaluates, pickles, kernels of the hub."""
    for key, text in _texts(config):
        is_call = "(" in text and key not in _FILES
        is_kernel = "attn_implementation" in key and "/" in text
        if is_call or is_kernel or text.lower().endswith((".pkl", ".pickle")):
            raise UserError(f"{where}: its run's config holds {ascii(text)[:80]} as {key}, which may be code: refused.")


def _types(value: Any) -> Iterator[Any]:
    """Everything that a config would build by its name, of whatever depth."""
    if isinstance(value, Mapping):
        if value.get("trust_remote_code"):
            yield "trust_remote_code"
        if "type" in value:
            yield value["type"]
        if "of" in value and "/" not in str(value["of"]):  # otherwise a library's name
            yield value["of"]
        for one in value.values():
            yield from _types(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _types(one)


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """All texts of a config, each with the key that it stands under."""
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from _texts(one, name)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _texts(one, key)
    elif isinstance(value, str):
        yield key, value


def registered_names(registry: Registry) -> Iterator[str]:
    """Everything that a registry and those of the packages below it hold."""
    registry.import_from_location()
    for child in list(registry.children.values()):  # before its own: packages import others, which fill it
        yield from registered_names(child)
    yield from list(registry.module_dict)
