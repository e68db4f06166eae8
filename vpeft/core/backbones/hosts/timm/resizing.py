"""What timm's backbones can be told after they were built."""

from __future__ import annotations

from typing import Any

from vpeft.core.backbones.block_forward import SiteBackbone
from vpeft.errors import UserError


class TimmBackbone(SiteBackbone):
    """Another input size is followed; another patch size is refused, since it replaces the patch embedding's module."""

    def set_input_size(self, img_size: Any = None, patch_size: Any = None, *args: Any, **kwargs: Any) -> None:
        """As the plain class.

        Raises:
            UserError: The patch size is another one.
        """
        from timm.layers import to_2tuple

        own = tuple(self.patch_embed.patch_size)
        if patch_size is not None and to_2tuple(patch_size) != own:
            raise UserError(
                f"patch_size={patch_size} would replace the patch embedding, on which a method is attached (patches of "
                f"{own[0]}x{own[1]}): call set_input_size before attaching."
            )
        super().set_input_size(img_size, patch_size, *args, **kwargs)
