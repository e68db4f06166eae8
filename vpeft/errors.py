"""The one exception for wrong use and bad input; the tools print its message as a single line, without a traceback."""


class UserError(ValueError):
    """Wrong use or bad input, in one message: what was wrong, where (path, key, value), and what to do."""
