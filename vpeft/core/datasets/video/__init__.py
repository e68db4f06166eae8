"""Action recognition."""

from vpeft.core.datasets.video.lists import VideoList

__all__ = ["VideoList"]
