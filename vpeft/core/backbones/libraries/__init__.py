"""The libraries that models come from: what each calls its models, and how it reads weights of other names."""

from vpeft.core.backbones.libraries.library import LIBRARIES, Library, is_installed, library, library_of

__all__ = ["LIBRARIES", "Library", "is_installed", "library", "library_of"]
