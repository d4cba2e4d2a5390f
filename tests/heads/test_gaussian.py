import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

from genpolicy.heads.gaussian import GaussianConfig, GaussianHead
from genpolicy.networks.mlp import MLPConfig
from tests.helpers import numpy_mlp, randomise


def make(*, scale: float = 0.3, **options: object) -> GaussianHead:
    config = GaussianConfig(backbone=MLPConfig(hidden_dims=(9,)), **options)
    return randomise(GaussianHead(config, feature_dim=3, action_dim=2), scale=scale)


def network_output(head: GaussianHead, features: torch.Tensor) -> torch.Tensor:
    linears = [layer for layer in head.backbone.layers if isinstance(layer, torch.nn.Linear)]
    layers = [(layer.weight.detach().numpy().T, layer.bias.detach().numpy()) for layer in linears]
    return torch.from_numpy(numpy_mlp(features.numpy(), layers))


@pytest.mark.parametrize("std", ["state_dependent", "constant"])
def test_log_prob_equals_torch_distributions(std: str) -> None:
    head, features, action = make(std=std), torch.randn(4, 5, 3), torch.randn(4, 5, 2)
    output = network_output(head, features)
    if std == "constant":
        mean, log_std = output, head.constant_log_std.expand_as(output)
    else:
        mean, log_std = output[..., :2], output[..., 2:]
    expected = Independent(Normal(mean, log_std.exp()), 1).log_prob(action)
    torch.testing.assert_close(head.log_prob(features, action), expected)


def test_loss_is_the_negative_log_likelihood_in_nats() -> None:
    head, features, action = make(), torch.randn(5, 3), torch.randn(5, 2)
    loss = head.loss(features, action, ())
    torch.testing.assert_close(loss.per_sample, -head.log_prob(features, action))
    torch.testing.assert_close(loss.fit, loss.per_sample)
    torch.testing.assert_close(loss.metrics["nll"], loss.per_sample.mean())


def test_log_std_is_clipped_without_gradient_outside() -> None:
    head, features = make(log_std_min=-0.01, log_std_max=0.02, scale=2.0), torch.randn(50, 3)
    raw = network_output(head, features)[:, 2:]
    _, log_std = head.distribution(features)
    torch.testing.assert_close(log_std, torch.from_numpy(np.clip(raw.numpy(), -0.01, 0.02)))
    outside = ((raw < -0.01) | (raw > 0.02)).all(-1)
    assert outside.any()
    head.distribution(features[outside])[1].sum().backward()
    assert not any(parameter.grad.any() for parameter in head.parameters())


def test_sample_is_the_mean_plus_the_scaled_noise() -> None:
    head, features, noise = make(), torch.randn(5, 3), torch.randn(5, 2)
    mean, log_std = head.distribution(features)
    torch.testing.assert_close(head.sample(features, torch.zeros(5, 2)), mean)
    torch.testing.assert_close(head.sample(features, noise), mean + log_std.exp() * noise)


def test_samples_have_the_law_of_the_log_prob(generator: torch.Generator) -> None:
    head, features = make(std="constant"), torch.randn(1, 3)
    samples = head.sample(features.expand(20_000, 3), head.noise(20_000, generator)).detach()
    mean, log_std = (value.detach()[0] for value in head.distribution(features))
    torch.testing.assert_close(samples.mean(0), mean, atol=0.03, rtol=0)  # 4 standard errors
    torch.testing.assert_close(samples.std(0), log_std.exp(), atol=0.03, rtol=0)


def test_constant_std_is_one_vector_for_all_states_and_starts_at_one() -> None:
    config = GaussianConfig(backbone=MLPConfig(hidden_dims=(9,)), std="constant")
    head = GaussianHead(config, feature_dim=3, action_dim=2)
    _, log_std = head.distribution(torch.randn(5, 3))
    torch.testing.assert_close(log_std, torch.zeros(5, 2))
    assert head.backbone(torch.randn(5, 3)).shape == (5, 2)
