"""Tasks and their data."""

from vpeft.core.datasets.fgvc import FGVC
from vpeft.core.datasets.load import LoadImage
from vpeft.core.datasets.many_shot import ManyShot
from vpeft.core.datasets.mini import MiniVTAB
from vpeft.core.datasets.tasks import TASKS, Task, get_task
from vpeft.core.datasets.video import VideoList
from vpeft.core.datasets.vtab import VTAB1k

__all__ = ["FGVC", "TASKS", "LoadImage", "ManyShot", "MiniVTAB", "Task", "VTAB1k", "VideoList", "get_task"]
