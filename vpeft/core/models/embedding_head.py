"""A classification head that starts from embeddings of the classes, as CLIP's zero-shot head does."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from mmpretrain.models.heads import ClsHead
from torch import Tensor, nn

from vpeft.core.backbones.weights.read import read_weights
from vpeft.errors import UserError
from vpeft.registry import MODELS


@MODELS.register_module()
class EmbeddingHead(ClsHead):
    """``scale * E norm(P x)``: the cosine of an image's feature with the embedding of every class.

    The file, safetensors or npz, holds ``weight`` (classes, dim), the classes' embeddings in the order of the labels,
    such as means over text templates; and, where features and embeddings differ in width, ``projection``
    (dim, in_channels), the image encoder's own. Rows are brought to length one when they are read.

    Args:
        file: The file; read when weights are initialised.
        num_classes: Classes.
        in_channels: Width of the features.
        dim: Width of the embeddings; None means that of the features, without a projection.
        scale: Of the logits; CLIP's is 100.
        train: Whether E is trained; P stays as it is.
        **kwargs: Of mmpretrain's ``ClsHead``, such as ``loss``.

    Attributes:
        start_is_given: True: its start is no matter of chance, so that interpolation can begin at it.
    """

    start_is_given = True

    def __init__(
        self,
        file: str,
        num_classes: int,
        in_channels: int,
        dim: int | None = None,
        scale: float = 100.0,
        train: bool = True,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.file, self.scale = file, scale
        self.fc = nn.Linear(dim or in_channels, num_classes, bias=False)
        self.fc.requires_grad_(train)
        self.projection = nn.Linear(in_channels, dim, bias=False) if dim else nn.Identity()
        self.projection.requires_grad_(False)

    def init_weights(self) -> None:
        """Read the file.

        Raises:
            UserError: It is missing or broken, or a shape is not the one that the config says.
        """
        tensors = read_embeddings(self.file)
        wanted = {"weight": self.fc.weight}
        if isinstance(self.projection, nn.Linear):
            wanted["projection"] = self.projection.weight
        for key, param in wanted.items():
            shape = tuple(tensors[key].shape) if key in tensors else None
            if shape != tuple(param.shape):
                found = "is missing" if shape is None else f"has the shape {shape}"
                raise UserError(
                    f"{self.file}: {key!r} {found}, and the head needs {tuple(param.shape)}: set num_classes, dim and "
                    "in_channels of the head to those of the file, or write the file anew."
                )
        with torch.no_grad():
            self.fc.weight.copy_(F.normalize(tensors["weight"].float(), dim=1))
            if "projection" in wanted:
                self.projection.weight.copy_(tensors["projection"].float())

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Scores ``(B, classes)`` of the features of the last output."""
        x = F.normalize(self.projection(self.pre_logits(feats)), dim=-1)
        return self.fc(x * self.scale)


def read_embeddings(file: str) -> dict[str, Tensor]:
    """The tensors of a file of embeddings.

    Raises:
        UserError: The file is missing, truncated, of another kind, or holds NaN.
    """
    path = Path(file)
    if not path.is_file():
        raise UserError(f"embeddings of the classes {path} do not exist: docs/analysis.md says how the file is made.")
    try:
        tensors = {key: value for key, value in read_weights(str(path))[0].items() if value.is_floating_point()}
    except UserError as error:
        raise UserError(f"embeddings of the classes {path}: {error}") from error
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise UserError(f"{path} holds NaN or infinite values: write it anew.")
    return tensors
