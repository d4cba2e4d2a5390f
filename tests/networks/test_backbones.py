"""What every registered backbone promises."""

import pytest
import torch

from genpolicy.networks.base import Backbone
from genpolicy.registry import BACKBONES
from tests.helpers import randomise

SMALL = {"dit": {"width": 8, "depth": 2, "time_features": 6}, "mlp": {"hidden_dims": (9, 7), "layer_norm": True}}
NAMES = BACKBONES.names()


def build(name: str, *, input_dim: int = 2, num_times: int = 1, **options: object) -> Backbone:
    config = BACKBONES[name].config(**SMALL.get(name, {}) | options)
    return randomise(BACKBONES.create(config, feature_dim=3, input_dim=input_dim, num_times=num_times, output_dim=4))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_times", [0, 1, 2])
def test_all_batch_axes_are_independent_rows(name: str, num_times: int) -> None:
    network = build(name, num_times=num_times)
    features, x = torch.randn(3, 5, 3), torch.randn(3, 5, 2)
    times = [torch.rand(3, 5, 1) for _ in range(num_times)]
    whole = network(features, x, *times)
    assert whole.shape == (3, 5, 4)
    for i in range(3):
        for j in range(5):
            row = network(features[i, j], x[i, j], *(t[i, j] for t in times))
            torch.testing.assert_close(whole[i, j], row)


@pytest.mark.parametrize("name", NAMES)
def test_a_time_given_once_equals_the_same_time_in_every_row(name: str) -> None:
    network, features, x = build(name), torch.randn(6, 3), torch.randn(6, 2)
    torch.testing.assert_close(
        network(features, x, torch.full((1, 1), 0.7)), network(features, x, torch.full((6, 1), 0.7))
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_input_matters_and_the_two_times_are_told_apart(name: str) -> None:
    network = build(name, num_times=2)
    inputs = [torch.randn(4, 3), torch.randn(4, 2), torch.rand(4, 1), torch.rand(4, 1)]
    output = network(*inputs)
    for place in range(4):
        changed = [value + 0.5 * (index == place) for index, value in enumerate(inputs)]
        assert (network(*changed) - output).abs().amax() > 1e-3
    swapped = network(inputs[0], inputs[1], inputs[3], inputs[2])
    assert (swapped - output).abs().amax() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_a_backbone_without_second_input_and_time_needs_features_only(name: str) -> None:
    network = build(name, input_dim=0, num_times=0)
    assert network(torch.randn(6, 3)).shape == (6, 4)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    network = build(name, num_times=2)
    network(torch.randn(6, 3), torch.randn(6, 2), torch.rand(6, 1), torch.rand(6, 1)).square().sum().backward()
    still = [key for key, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    assert not still
