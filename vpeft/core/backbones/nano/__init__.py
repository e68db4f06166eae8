"""The nano hosts: two tiny backbones that this project trained on images drawn by rule and ships with itself.

With ``import vpeft`` mmengine's checkpoint loader knows the scheme ``vpeft://``, so that
``init_cfg=dict(type='Pretrained', checkpoint='vpeft://nano_vit')`` finds the shipped file.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

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
        raise UserError(f"No shipped weights {SCHEME}{name}; {nearest(name, NANO_BACKBONES)}")
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
    """Load shipped weights for mmengine.

    Args:
        filename: ``vpeft://<name>``.
        map_location: Device as a string or ``torch.device``; None means the CPU.

    Returns:
        ``dict(state_dict=...)`` with the keys of the mmpretrain backbone, without a prefix.

    Raises:
        UserError: As in :func:`nano_path`.
    """
    from safetensors.torch import load_file

    path = nano_path(filename.removeprefix(SCHEME))
    return {"state_dict": load_file(path, device=str(map_location or "cpu"))}
