"""Reading weight files of any kind as named tensors, in ways that cannot run code."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from vpeft.compat.torch_load import Damaged, HoldsObjects, read_torch
from vpeft.core.backbones.weights.dense import not_dense
from vpeft.core.backbones.weights.onnx_file import read_onnx
from vpeft.errors import UserError

#: Keys under which training scripts keep the weights beside their optimiser.
CONTAINERS = ("state_dict", "model", "module")
#: Weights in a folder as transformers, timm and open_clip write them; an index names the parts.
FOLDER = (
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_pytorch_model.bin",
)
_INDEX = ".index.json"
_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


def read_weights(checkpoint: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The named tensors of a weight file.

    Args:
        checkpoint: Path of an ``.npz``, ``.safetensors``, ``.onnx`` or torch file (any other name), of a folder with a
            file of ``FOLDER``, or of the index of such parts; or an address that mmengine's ``CheckpointLoader`` knows,
            such as ``vpeft://nano_vit``.

    Returns:
        The tensors by the file's own keys (those below one of ``CONTAINERS`` where there is such a key), and
        the keys beside them that are not tensors, each with the reason for leaving it out.

    Raises:
        UserError: The file is missing, damaged, not a weight file, or holds objects that only running code restores.
    """
    if "://" in checkpoint:
        loaded = _from_address(checkpoint)
    else:
        path = Path(checkpoint).expanduser()
        if path.is_dir():
            path = _in_folder(path)
        if not path.is_file():
            raise UserError(
                f"no such file, seen from {Path.cwd()}: correct 'checkpoint' in init_cfg, or put the file there."
            )
        loaded = _from_parts(path) if path.name.endswith(_INDEX) else _from_file(path)
    for container in CONTAINERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(container), Mapping):
            loaded = loaded[container]
    if not isinstance(loaded, Mapping):
        raise UserError(f"holds a {type(loaded).__name__}, not weights by name: save model.state_dict().")
    state = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
    if not state:
        keys = ", ".join(map(str, list(loaded)[:5]))
        raise UserError(f"holds no tensors by name (its keys: {keys or 'none'}): is it a weight file?")
    for key, value in state.items():
        if (said := not_dense(value)) is not None:
            raise UserError(f"{key} {said}: save the model's state_dict() anew.")
    return state, {str(key): "not a tensor" for key in loaded if str(key) not in state}


def _in_folder(folder: Path) -> Path:
    found = next((folder / name for name in FOLDER if (folder / name).is_file()), None)
    if found is None:
        raise UserError(f"a folder without weights ({', '.join(FOLDER[:2])}, ...): give the file in it.")
    return found


def _from_parts(index: Path) -> dict[str, Any]:
    """The tensors of a file in parts, which lie beside its index."""
    try:
        names = set(json.loads(index.read_text())["weight_map"].values())
        parts = [index.parent / Path(name).name for name in sorted(names)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(type(error).__name__) from error
    if lacking := [part.name for part in parts if not part.is_file()]:
        raise UserError(f"{index.name} names {', '.join(lacking[:3])}, which do not lie beside it: fetch all parts.")
    whole: dict[str, Any] = {}
    for part in parts:
        try:
            whole |= _from_file(part)
        except UserError as error:
            raise UserError(f"{part.name}: {error}") from error
    return whole


def _from_file(path: Path) -> Any:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        if path.suffix == ".onnx":
            return read_onnx(path)
        if path.suffix == ".safetensors":
            return load_file(path, device="cpu")
        return read_torch(path, "cpu")
    except HoldsObjects as error:
        raise _objects(str(error)) from error
    except Damaged as error:
        raise _damaged(error.kind) from error
    except UserError:
        raise
    except Exception as error:  # numpy and safetensors raise many kinds
        raise _damaged(type(error).__name__) from error


def _from_address(address: str) -> Any:
    from mmengine.runner.checkpoint import CheckpointLoader  # with mmengine's whole Runner, which no file needs

    try:
        with _weights_only():
            return CheckpointLoader.load_checkpoint(address, map_location="cpu", logger="silent")
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"nothing found at this address ({error}): correct 'checkpoint' in init_cfg.") from error
    except pickle.UnpicklingError as error:
        raise _objects(str(error).partition("GLOBAL ")[2].partition(" ")[0] or "unnamed") from error
    except Exception as error:  # the loaders of other schemes are not ours
        raise UserError(f"could not be loaded ({type(error).__name__}): fetch the file and give its path.") from error


@contextmanager
def _weights_only() -> Iterator[None]:
    """Within the context torch never unpickles objects, whoever has written a scheme's loader."""
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before


def _objects(found: str) -> UserError:
    return UserError(
        f"holds objects other than tensors ({found}), and restoring them could run code: where you trust the file, "
        "save only its weights anew with torch.save(model.state_dict(), path)."
    )


def _damaged(kind: str) -> UserError:
    return UserError(f"cut short, or not a weight file ({kind}): compare its size or checksum, and fetch it again.")
