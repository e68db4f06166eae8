"""Which config follows from a user's own data?"""

from vpeft.apis.config.own.compose import OwnOptions, own_config

__all__ = ["OwnOptions", "own_config"]
