"""What has a run left, and how is it opened again?"""

from vpeft.core.models.build import build_model
from vpeft.core.trained.folder import ADAPTER
from vpeft.core.trained.load import load_trained

__all__ = ["ADAPTER", "build_model", "load_trained"]
