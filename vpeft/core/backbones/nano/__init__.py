"""The nano hosts: two tiny backbones that this project trained on images drawn by rule and ships with itself.

With ``import vpeft`` mmengine's checkpoint loader knows the scheme ``vpeft://``, so that
``init_cfg=dict(type='Pretrained', checkpoint='vpeft://nano_vit')`` finds the shipped file.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from torch import nn

from vpeft.core.backbones.fetched import BASES, load_base
from vpeft.errors import UserError
from vpeft.registry import nearest

HERE = Path(__file__).parent
SCHEME = "vpeft://"
#: Pixel values 0..255 become -1..1, as in pretraining.
NORMALISATION = {"mean": [127.5] * 3, "std": [127.5] * 3}
#: mmpretrain's settings of each backbone for RGB images of 32 x 32 pixels.
NANO_BACKBONES: dict[str, dict[str, Any]] = {
    "nano_vit": {
        "type": "VisionTransformer",
        "arch": {"embed_dims": 64, "num_layers": 6, "num_heads": 2, "feedforward_channels": 256},
        "img_size": 32,
        "patch_size": 8,
        "out_type": "cls_token",
        "drop_path_rate": 0.0,
    },
    "nano_swin": {
        "type": "SwinTransformer",
        "arch": {"embed_dims": 24, "depths": [2, 2, 2], "num_heads": [1, 2, 4]},
        "img_size": 32,
        "patch_size": 2,
        "window_size": 4,
        "out_indices": (2,),
        "drop_path_rate": 0.0,
    },
}


def sha256(path: Path) -> str:
    """The SHA-256 checksum of a file, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def nano_path(name: str) -> Path:
    """The shipped weights of a nano host, after a check that they are the ones this project made.

    Args:
        name: ``nano_vit`` or ``nano_swin``.

    Returns:
        The path of its safetensors file.

    Raises:
        UserError: If the name is unknown, or the file is missing or not the one whose checksum is recorded.
    """
    if name not in NANO_BACKBONES:
        raise UserError(f"No weights {SCHEME}{name}; {nearest(name, [*NANO_BACKBONES, *BASES])}")
    path = HERE / f"{name}.safetensors"
    expected = json.loads((HERE / "checksums.json").read_text(encoding="utf-8"))[path.name]
    if not path.is_file():
        raise UserError(f"{path} is missing; reinstall vpeft, or run 'python tools/pretrain_nano.py --help'.")
    found = sha256(path)
    if found != expected:
        raise UserError(
            f"{path} has the SHA-256 checksum {found} where checksums.json says {expected}; "
            "restore the file, or update checksums.json after training it anew."
        )
    return path


def load_from_vpeft(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Load shipped or fetched weights for mmengine.

    Args:
        filename: ``vpeft://<name>``.
        map_location: Device as a string or ``torch.device``; None means the CPU.

    Returns:
        ``dict(state_dict=...)`` with the keys of the mmpretrain backbone, of fetched ones timm's, without a prefix.

    Raises:
        UserError: As in :func:`nano_path` and :func:`~vpeft.core.backbones.fetched.load_base`, or a package's own
            loader asks, which takes of a file what it knows and drops the rest without a word.
    """
    from safetensors.torch import load_file

    if (asking := _own_loader(sys._getframe(1))) is not None:
        cls = type(asking)
        raise UserError(
            f"{filename} in init_cfg of {cls.__module__.partition('.')[0]}.{cls.__name__}: its own loader drops what "
            "it does not know: put it into vpeft.PEFT, which loads it whole."
        )
    name = filename.removeprefix(SCHEME)
    if name in BASES:
        return {"state_dict": {key: value.to(map_location or "cpu") for key, value in load_base(name).items()}}
    path = nano_path(name)
    return {"state_dict": load_file(path, device=str(map_location or "cpu"))}


def _own_loader(frame: FrameType | None) -> nn.Module | None:
    """The module whose ``init_weights`` asks for a file and reads it by itself; None where this package does."""
    while frame is not None and frame.f_code.co_name != "read_weights":
        asking = frame.f_locals.get("self") if frame.f_code.co_name == "init_weights" else None
        if isinstance(asking, nn.Module):
            return asking
        frame = frame.f_back
    return None
