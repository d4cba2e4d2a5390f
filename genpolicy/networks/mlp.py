"""The multilayer perceptron backbone."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from genpolicy.networks.base import Backbone
from genpolicy.networks.embeddings import SinusoidalTime
from genpolicy.networks.layers import GELU, LAYER_NORM_EPS, join, linear
from genpolicy.options import Options, option
from genpolicy.registry import BACKBONES


@dataclass(frozen=True)
class MLPConfig(Options):
    """Hyperparameters of the MLP backbone."""

    hidden_dims: tuple[int, ...] = option((512, 512, 512, 512), "width of each hidden layer", minimum=1)
    layer_norm: bool = option(False, "LayerNorm after each activation")
    time_embedding: Literal["sinusoidal", "raw"] = option(
        "sinusoidal", "how a flow time enters: smooth features, or one plain column as in FQL"
    )
    time_features: int = option(32, "number of sinusoidal features per time (even)", minimum=2)
    output_init_scale: float = option(
        1.0, "factor on the last layer's initial weights; 0 starts at output 0", minimum=0
    )


@BACKBONES.register("mlp", config=MLPConfig)
class MLP(Backbone):
    """Multilayer perceptron over the concatenation of features, second input and time features.

    Each hidden layer is linear, GELU (tanh approximation), then LayerNorm if asked for, in this order, as in
    seohongpark/fql ``utils/networks.py``.
    """

    def __init__(self, config: MLPConfig, *, feature_dim: int, input_dim: int, num_times: int, output_dim: int):
        super().__init__()
        sinusoidal = config.time_embedding == "sinusoidal"
        self.embed_time = SinusoidalTime(config.time_features) if sinusoidal else nn.Identity()
        width = feature_dim + input_dim + num_times * (config.time_features if sinusoidal else 1)
        layers: list[nn.Module] = []
        for hidden in config.hidden_dims:
            layers += [linear(width, hidden), GELU()]
            if config.layer_norm:
                layers.append(nn.LayerNorm(hidden, eps=LAYER_NORM_EPS))
            width = hidden
        layers.append(linear(width, output_dim, scale=config.output_init_scale))
        self.layers = nn.Sequential(*layers)

    def forward(
        self,
        features: Float[Tensor, "*batch F"],
        x: Float[Tensor, "*batch X"] | None = None,
        *times: Float[Tensor, "*#batch 1"],
    ) -> Float[Tensor, "*batch Y"]:
        """See `Backbone.forward`."""
        return self.layers(join(features, x, *(self.embed_time(t) for t in times)))
