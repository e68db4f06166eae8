"""Which configs tests go through."""

from pathlib import Path

from vpeft.apis.config.listing import config_names

ROOT = Path(__file__).parents[2]


def mini_configs() -> list[str]:
    """Paths of the configs of the embedded tasks of classification, composed ones included."""
    names = config_names(ROOT / "configs/mini")
    return [path for path in names if path.endswith(("_nano_vit.py", "_nano_swin.py"))]
