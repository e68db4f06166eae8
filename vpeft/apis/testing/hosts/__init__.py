"""Which tiny backbones, and variants of them, is the contract of a method gone through on?

The builder of a host stands in the file of the same name here as the host itself does in
``vpeft/core/backbones/hosts``, and imports its library when it is called. A registered host without one fails a test.
"""

from importlib import import_module
from pathlib import Path

from vpeft.apis.testing.hosts.tiny import TINY, Shape, Tiny, tiny, tiny_of

__all__ = ["TINY", "Shape", "Tiny", "tiny", "tiny_of"]

_HERE = Path(__file__).parent
for _file in sorted(_HERE.glob("*/**/*.py")):
    if _file.stem != "__init__":
        import_module(".".join((__name__, *_file.relative_to(_HERE).with_suffix("").parts)))
