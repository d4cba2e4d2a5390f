"""The single-token transformer backbone of MeanFlowQL."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from genpolicy.networks.base import Backbone
from genpolicy.networks.embeddings import SinusoidalTime
from genpolicy.networks.layers import GELU, RMSNorm, join, linear
from genpolicy.options import Options, option
from genpolicy.registry import BACKBONES


@dataclass(frozen=True)
class DiTConfig(Options):
    """Hyperparameters of the single-token transformer; the defaults are MeanFlowQL's."""

    width: int = option(256, "width of the token", minimum=1)
    depth: int = option(3, "number of blocks", minimum=1)
    time_features: int = option(256, "number of sinusoidal features of a time (even)", minimum=2)
    output_norm: bool = option(False, "LayerNorm on the output")
    time_in_token: bool = option(False, "also append the plain times to the token's input (MFDiT_SIM_e)")
    output_init_scale: float = option(
        0.0, "factor on the last layer's initial weights; 0 starts at output 0", minimum=0
    )


@BACKBONES.register("dit", config=DiTConfig)
class DiT(Backbone):
    """Diffusion transformer with adaptive normalisation on a single token.

    The token is ``Linear([features, x]) + position``; the condition c is the sum of one embedding per time. Each block

        y = x + gate1 * Attention(RMSNorm(x) (1 + scale1) + shift1)
        y = y + gate2 * MLP(RMSNorm(y) (1 + scale2) + shift2)
        x <- x + 0.1 (y - x)

    takes its six modulations from ``Linear(SiLU(c))``. With one token the attention weights are 1 whatever the
    queries and keys are, so ``Attention(h) = Linear(value(h))`` exactly: queries and keys, which would never get a
    gradient, are neither stored nor computed, and a number of heads would change nothing. Modulations for a time
    that all rows share are computed once.

    Reference: HiccupRL/MeanFlowQL ``utils/dit_jax.py`` (``MFDiT_SIM``; with two times ``MFDiT``), including the outer
    mix of 0.1, the scale of `RMSNorm`, and zero initialisation of modulations and last layer (the first output is 0;
    `output_init_scale` changes the last layer's).
    """

    def __init__(self, config: DiTConfig, *, feature_dim: int, input_dim: int, num_times: int, output_dim: int):
        super().__init__()
        self.times_in_token = num_times if config.time_in_token else 0
        self.embed = linear(feature_dim + input_dim + self.times_in_token, config.width)
        self.position = nn.Parameter(torch.randn(config.width) * 0.02)
        self.times = nn.ModuleList(TimeEmbedder(config) for _ in range(num_times))
        self.blocks = nn.ModuleList(Block(config.width) for _ in range(config.depth))
        self.final_norm = RMSNorm(config.width)
        self.final_modulation = linear(config.width, 2 * config.width, scale=0.0)
        self.final = linear(config.width, output_dim, scale=config.output_init_scale)
        self.output_norm = nn.LayerNorm(output_dim, eps=1e-5) if config.output_norm else nn.Identity()
        if num_times == 0:  # The condition is 0 then: of the modulations only the biases count.
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(not name.endswith("modulation.weight"))

    def forward(
        self,
        features: Float[Tensor, "*batch F"],
        x: Float[Tensor, "*batch X"] | None = None,
        *times: Float[Tensor, "*#batch 1"],
    ) -> Float[Tensor, "*batch Y"]:
        """See `Backbone.forward`."""
        token = self.embed(join(features, x, *times[: self.times_in_token])) + self.position
        condition = functional.silu(self._condition(token, times))
        for block in self.blocks:
            token = block(token, condition)
        shift, scale = self.final_modulation(condition).chunk(2, dim=-1)
        return self.output_norm(self.final(modulate(self.final_norm(token), shift, scale)))

    def _condition(self, token: Tensor, times: tuple[Tensor, ...]) -> Tensor:
        condition = token.new_zeros(token.shape[-1])
        for embedder, t in zip(self.times, times, strict=True):
            condition = condition + embedder(t)
        return condition


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift."""
    return x * (1 + scale) + shift


class TimeEmbedder(nn.Module):
    """Sinusoidal features, then linear, SiLU, linear."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.features = SinusoidalTime(config.time_features)
        self.layers = nn.Sequential(
            linear(config.time_features, config.width), nn.SiLU(), linear(config.width, config.width)
        )

    def forward(self, t: Float[Tensor, "*batch 1"]) -> Float[Tensor, "*batch width"]:
        """Embed times (\\*batch, 1)."""
        return self.layers(self.features(t))


class Block(nn.Module):
    """One transformer block on a single token; see `DiT`."""

    mix = 0.1

    def __init__(self, width: int):
        super().__init__()
        self.modulation = linear(width, 6 * width, scale=0.0)
        self.attention_norm = RMSNorm(width)
        self.value = linear(width, width)
        self.attention_out = linear(width, width)
        self.mlp_norm = RMSNorm(width)
        self.mlp = nn.Sequential(linear(width, 4 * width), GELU(), linear(4 * width, width))

    def forward(self, x: Float[Tensor, "*batch width"], condition: Tensor) -> Float[Tensor, "*batch width"]:
        """Return the block's output; `condition` is SiLU(c) and broadcasts over the batch axes."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition).chunk(6, dim=-1)
        h = modulate(self.attention_norm(x), shift1, scale1)
        y = x + gate1 * self.attention_out(self.value(h))
        h = modulate(self.mlp_norm(y), shift2, scale2)
        y = y + gate2 * self.mlp(h)
        return torch.lerp(x, y, self.mix)
