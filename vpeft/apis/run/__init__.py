"""Training and testing a config."""

from vpeft.apis.run.prepare import prepare
from vpeft.apis.run.test import test
from vpeft.apis.run.train import train

__all__ = ["prepare", "test", "train"]
