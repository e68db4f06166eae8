"""Where can a method put something? The vocabulary of sites."""

from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.backbones.sites.site import Site

__all__ = ["Flow", "Site"]
