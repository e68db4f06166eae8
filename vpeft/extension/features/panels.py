"""One picture of features: points, labels, what they show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vpeft.extension.features.features import Features

#: Neighbours that vote for a class.
NEIGHBOURS = 10


@dataclass
class Panel:
    """One run in the plane.

    Attributes:
        label: The run's label.
        features: What is shown.
        places: ``(N, 2)``, centred, with a root mean square distance of 1 from the centre.
        quality: ``silhouette`` and ``knn`` of the features themselves, not of the plane.
    """

    label: str
    features: Features
    places: np.ndarray
    quality: Mapping[str, float]

    @property
    def title(self) -> str:
        """The label with the numbers below it."""
        return (
            f"{self.label}\nsilhouette {self.quality['silhouette']:.2f}, "
            f"{NEIGHBOURS}-NN {100 * self.quality['knn']:.1f} %, head {100 * self.features.accuracy:.1f} %"
        )
