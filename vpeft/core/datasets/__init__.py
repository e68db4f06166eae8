"""Tasks and their data."""

from vpeft.core.datasets.classification.fgvc import FGVC
from vpeft.core.datasets.classification.many_shot import ManyShot
from vpeft.core.datasets.classification.vtab import VTAB1k
from vpeft.core.datasets.embedded.mini import MiniVTAB
from vpeft.core.datasets.embedded.second.mini_v2 import MiniVTABv2
from vpeft.core.datasets.load.image import LoadImage
from vpeft.core.datasets.real.images import RealImages, WholeRealImages
from vpeft.core.datasets.tasks import TASKS, Task, get_task
from vpeft.core.datasets.video.clips import ListedClips
from vpeft.core.datasets.video.lists import VideoList

__all__ = [
    "FGVC",
    "TASKS",
    "ListedClips",
    "LoadImage",
    "ManyShot",
    "MiniVTAB",
    "MiniVTABv2",
    "RealImages",
    "Task",
    "VTAB1k",
    "VideoList",
    "WholeRealImages",
    "get_task",
]
