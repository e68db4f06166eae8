"""How is one file read?"""

from vpeft.core.datasets.load.image import LoadImage

__all__ = ["LoadImage"]
