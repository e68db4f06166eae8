"""From a name to a config, in one stated order."""

from vpeft.apis.config.load import config_names, load_config, plain_config

__all__ = ["config_names", "load_config", "plain_config"]
