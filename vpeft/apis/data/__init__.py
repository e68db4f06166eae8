"""What do data look like, and are they whole?"""

from vpeft.apis.data.check import check_suite

__all__ = ["check_suite"]
