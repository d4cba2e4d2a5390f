"""What every backbone promises: one network from (features, x, times) to an output."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn


class Backbone(nn.Module, ABC):
    """A network of features, an optional second input and any number of flow times.

    A head is handed a finished backbone and never asks which one it is. Every backbone's constructor takes its
    options and, by keyword, `feature_dim` (F, width of the encoded observation), `input_dim` (X, width of the second
    input, a noisy action; 0 if there is none), `num_times` (how many flow times it is conditioned on: 0, 1 or 2) and
    `output_dim` (Y).
    """

    @abstractmethod
    def forward(
        self,
        features: Float[Tensor, "*batch F"],
        x: Float[Tensor, "*batch X"] | None = None,
        *times: Float[Tensor, "*#batch 1"],
    ) -> Float[Tensor, "*batch Y"]:
        """Return the output for every row.

        Args:
            features: (\\*batch, F); all batch axes are independent rows.
            x: (\\*batch, X), or None if `input_dim` is 0.
            times: each (\\*batch, 1) in [0, 1], or of any shape that broadcasts to it: a time that all rows share,
                given as (1, 1), is embedded once.
        """
