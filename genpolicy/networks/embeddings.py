"""Embeddings of flow time."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genpolicy.errors import ConfigError


class SinusoidalTime(nn.Module):
    """Cosines and sines of flow time, smooth on [0, 1].

        f_k = exp(-ln(10000) k / (dim / 2)),  k = 0 .. dim/2 - 1;   out = [cos(t f), sin(t f)]

    All frequencies are at most 1 and t is not scaled. MeanFlow differentiates the network in t: with the high
    frequencies of image models (t times 1000) dg/dt explodes, and the regression target with it.

    Reference: HiccupRL/MeanFlowQL ``utils/dit_jax.py``; cosines stand first there and here.

    Args:
        dim: number of features, even.
    """

    frequencies: Tensor

    def __init__(self, dim: int):
        super().__init__()
        if dim % 2:
            raise ConfigError(f"time_features is {dim}; it must be even: half of them are cosines, half sines.")
        half = dim // 2
        frequencies = torch.exp(-math.log(10_000.0) * torch.arange(half, dtype=torch.float32) / half)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t: Float[Tensor, "*batch 1"]) -> Float[Tensor, "*batch dim"]:
        """Return (\\*batch, dim) features of times (\\*batch, 1)."""
        angles = t * self.frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=-1)
