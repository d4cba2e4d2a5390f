"""Convolutional encoders of image observations."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from genpolicy.networks.layers import GELU, LAYER_NORM_EPS, linear
from genpolicy.options import Options, option
from genpolicy.registry import ENCODERS

PIXEL_RANGE = 255.0
"""The largest value of a pixel; encoders divide by it."""


class Encoder(nn.Module, ABC):
    """A network from images to features.

    Every encoder's constructor takes its options and, by keyword, `observation_shape` (H, W, C); frames that are
    stacked lie along the channels.
    """

    feature_dim: int
    """F, width of the features."""

    @abstractmethod
    def forward(self, observation: Shaped[Tensor, "*batch H W C"]) -> Float[Tensor, "*batch F"]:
        """Return the features of images with values from 0 to 255, of any type."""


@dataclass(frozen=True)
class ImpalaSmallConfig(Options):
    """Hyperparameters of the small IMPALA encoder; the defaults are those of seohongpark/fql."""

    stack_sizes: tuple[int, ...] = option((16, 32, 32), "channels of each stack; each halves the image", minimum=1)
    blocks: int = option(1, "residual blocks per stack", minimum=0)
    hidden_dims: tuple[int, ...] = option(
        (512,), "widths of the layers after the last stack; the last is that of the features", minimum=1
    )
    layer_norm: bool = option(False, "LayerNorm after the last stack and after each layer behind it")


@dataclass(frozen=True)
class ImpalaLargeConfig(ImpalaSmallConfig):
    """Hyperparameters of the large IMPALA encoder; the defaults are those of seohongpark/fql."""

    stack_sizes: tuple[int, ...] = option((64, 128, 128), "channels of each stack; each halves the image", minimum=1)
    blocks: int = option(2, "residual blocks per stack", minimum=0)
    hidden_dims: tuple[int, ...] = option(
        (1024,), "widths of the layers after the last stack; the last is that of the features", minimum=1
    )


@ENCODERS.register("impala_small", config=ImpalaSmallConfig)
class ImpalaSmall(Encoder):
    """Residual convolutions in the manner of IMPALA, with few channels and one block per stack.

        stack(x) = block(... block(pool(conv(x))))
        block(x) = x + conv(relu(conv(relu(x))))
        features = gelu(linear(relu(stack(... stack(observation / 255)))))

    Every convolution is 3 x 3 and keeps the size, the maximum over 3 x 3 halves it; `linear` and `gelu` repeat for each
    of `hidden_dims`.

    **Reference.** IMPALA (arXiv:1802.01561, figure 3, right), whose network has two blocks per stack and no GELU, in
    the form of seohongpark/fql ``utils/encoders.py`` (``impala_small``). Padding of the pooling as in Flax: an even
    size gets its one row and column of padding at the end.

    Cost: 24 million products for an image of 64 x 64 x 9.
    """

    def __init__(self, config: ImpalaSmallConfig, *, observation_shape: Sequence[int]):
        super().__init__()
        height, width, channels = observation_shape
        stacks: list[nn.Module] = []
        for size in config.stack_sizes:
            stacks.append(_Stack(channels, size, blocks=config.blocks))
            height, width, channels = -(-height // 2), -(-width // 2), size
        self.stacks = nn.Sequential(*stacks)
        self.norm = nn.LayerNorm(channels, eps=LAYER_NORM_EPS) if config.layer_norm else nn.Identity()
        layers: list[nn.Module] = []
        wide = height * width * channels
        for hidden in config.hidden_dims:
            layers += [linear(wide, hidden), GELU()]
            if config.layer_norm:
                layers.append(nn.LayerNorm(hidden, eps=LAYER_NORM_EPS))
            wide = hidden
        self.layers = nn.Sequential(*layers)
        self.feature_dim = wide

    def forward(self, observation: Shaped[Tensor, "*batch H W C"]) -> Float[Tensor, "*batch F"]:
        """See `Encoder.forward`."""
        batch = observation.shape[:-3]
        dtype = next(self.parameters()).dtype
        x = observation.reshape(-1, *observation.shape[-3:]).to(dtype) / PIXEL_RANGE
        x = functional.relu(self.stacks(rearrange(x, "n h w c -> n c h w")))
        x = self.norm(rearrange(x, "n c h w -> n h w c"))
        return self.layers(x.flatten(1)).reshape(*batch, self.feature_dim)


@ENCODERS.register("impala_large", config=ImpalaLargeConfig)
class ImpalaLarge(ImpalaSmall):
    """The IMPALA encoder with many channels and two blocks per stack.

    **Reference.** seohongpark/fql ``utils/encoders.py`` (``impala_large``); else as `ImpalaSmall`.

    Cost: 480 million products for an image of 64 x 64 x 9.
    """


class _Stack(nn.Module):
    """A convolution, a maximum over 3 x 3 that halves the image, and residual blocks."""

    def __init__(self, in_channels: int, channels: int, *, blocks: int):
        super().__init__()
        self.conv = _conv(in_channels, channels)
        self.blocks = nn.ModuleList(nn.ModuleList(_conv(channels, channels) for _ in range(2)) for _ in range(blocks))

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N K h w"]:
        """Return images of half the size."""
        x = _halve(self.conv(x))
        for block in self.blocks:
            change = x
            for conv in block:  # type: ignore[attr-defined]
                change = conv(functional.relu(change))
            x = x + change
        return x


def _conv(in_channels: int, channels: int) -> nn.Conv2d:
    """A 3 x 3 convolution that keeps the size, initialised as Flax's habit in this field is."""
    layer = nn.Conv2d(in_channels, channels, 3, padding="same")
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def _halve(x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C h w"]:
    """The maximum over 3 x 3 at every second pixel; an odd size is padded on both sides, an even one at the end."""
    left, top = x.shape[-1] % 2, x.shape[-2] % 2
    padded = functional.pad(x, (left, 1, top, 1), value=-torch.inf)
    return functional.max_pool2d(padded, 3, stride=2)
