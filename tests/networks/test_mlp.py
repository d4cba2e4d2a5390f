import numpy as np
import pytest
import torch

from genpolicy.networks.embeddings import SinusoidalTime
from genpolicy.networks.mlp import MLP, MLPConfig
from tests.helpers import numpy_mlp, randomise


def layers_of(network: MLP) -> list[tuple[np.ndarray, ...]]:
    """Weight and bias of each linear layer, with gain and shift of the LayerNorm behind it."""
    entries: list[list[np.ndarray]] = []
    for module in network.layers:
        if isinstance(module, torch.nn.Linear):
            entries.append([module.weight.detach().numpy().T, module.bias.detach().numpy()])
        elif isinstance(module, torch.nn.LayerNorm):
            entries[-1] += [module.weight.detach().numpy(), module.bias.detach().numpy()]
    return [tuple(entry) for entry in entries]


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("time_embedding", ["sinusoidal", "raw"])
def test_output_equals_a_perceptron_written_out(layer_norm: bool, time_embedding: str) -> None:
    config = MLPConfig(hidden_dims=(9, 7), layer_norm=layer_norm, time_embedding=time_embedding, time_features=6)
    network = randomise(MLP(config, feature_dim=3, input_dim=2, num_times=1, output_dim=4))
    features, x, t = torch.randn(5, 3), torch.randn(5, 2), torch.rand(5, 1)
    column = t if time_embedding == "raw" else SinusoidalTime(6)(t)
    layers = layers_of(network)
    assert [len(entry) for entry in layers] == [4 if layer_norm else 2] * 2 + [2]
    expected = numpy_mlp(torch.cat([features, x, column], -1).numpy(), layers)
    torch.testing.assert_close(network(features, x, t), torch.from_numpy(expected))


def test_hidden_dims_may_be_empty_for_a_linear_map() -> None:
    network = MLP(MLPConfig(hidden_dims=()), feature_dim=3, input_dim=0, num_times=0, output_dim=2)
    features = torch.randn(5, 3)
    ((weight, bias),) = layers_of(network)
    torch.testing.assert_close(network(features), features @ torch.from_numpy(weight) + torch.from_numpy(bias))


@pytest.mark.parametrize("scale", [0.0, 0.25])
def test_output_init_scale_multiplies_the_last_layer_only(scale: float) -> None:
    def outputs(scale: float) -> torch.Tensor:
        torch.manual_seed(0)
        config = MLPConfig(hidden_dims=(9, 7), output_init_scale=scale)
        network = MLP(config, feature_dim=3, input_dim=0, num_times=0, output_dim=4)
        return network(torch.linspace(-1, 1, 3)[None])

    torch.testing.assert_close(outputs(scale), scale * outputs(1.0))
