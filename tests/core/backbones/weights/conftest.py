"""Imported before the tests of this folder: vpeft mends torchvision, which timm imports."""

import vpeft  # noqa: F401
