"""Models for use outside vpeft."""

from vpeft.apis.export.merged import export_merged

__all__ = ["export_merged"]
