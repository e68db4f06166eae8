"""What has a run left, and how is it opened again?"""

from vpeft.core.models.build import build_model
from vpeft.core.trained.load import ADAPTER, load_trained

__all__ = ["ADAPTER", "build_model", "load_trained"]
