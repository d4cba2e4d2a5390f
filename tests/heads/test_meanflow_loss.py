"""The MeanFlow loss: value against NumPy, weighting, clipping, consistency, and where no gradient may flow."""

import numpy as np
import pytest
import torch
from torch import Tensor

from genpolicy.heads import paths
from genpolicy.heads.meanflow import ConsistencyDraws, MeanFlowConfig, MeanFlowDraws, MeanFlowHead, adaptive_weight
from genpolicy.networks.mlp import MLPConfig
from tests.helpers import randomise

LINEAR = MLPConfig(hidden_dims=(), time_embedding="raw")
CURVED = MLPConfig(hidden_dims=(9, 7), time_features=6)
N = 6


def make(backbone: MLPConfig = CURVED, *, scale: float = 0.3, **options: object) -> MeanFlowHead:
    config = MeanFlowConfig(backbone=backbone, **options)
    return randomise(MeanFlowHead(config, feature_dim=3, action_dim=2), scale=scale)


def inputs() -> tuple[Tensor, Tensor, MeanFlowDraws]:
    consistency = ConsistencyDraws(torch.randn(N, 2), torch.rand(N, 1), torch.rand(N, 1))
    return torch.randn(N, 3), torch.randn(N, 2), MeanFlowDraws(torch.randn(N, 2), torch.rand(N, 1), consistency)


@pytest.mark.parametrize("gamma", [0.8, 0.0, 1.0])
@pytest.mark.parametrize("clip", [None, 0.3])
@pytest.mark.parametrize("consistency_weight", [0.0, 0.5])
def test_loss_equals_a_numpy_derivation(gamma: float, clip: float | None, consistency_weight: float) -> None:
    """With g linear in (features, x_t, t) the total derivative is W_x velocity + w_t."""
    head = make(LINEAR, adaptive_gamma=gamma, adaptive_c=1e-2, target_clip=clip, consistency_weight=consistency_weight)
    features, action, draws = inputs()
    f, a, e, t = (value.numpy() for value in (features, action, draws.noise, draws.t))
    (layer,) = head.backbone.layers
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    w_f, w_x, w_t = weight[:, :3], weight[:, 3:5], weight[:, 5]

    def g(x: np.ndarray, t: np.ndarray) -> np.ndarray:
        return f @ w_f.T + x @ w_x.T + t * w_t + bias

    x, v = (1 - t) * a + t * e, e - a
    target = x + (t - 1) * v - t * (v @ w_x.T + w_t)
    if clip is not None:
        assert (np.abs(target) > clip).any() and (np.abs(target) < clip).any()
        target = np.clip(target, -clip, clip)
    error = ((g(x, t) - target) ** 2).mean(-1)
    fit = error / (error + 1e-2) ** (1 - gamma)

    loss = head.loss(features, action, draws)
    torch.testing.assert_close(loss.fit, torch.from_numpy(fit))
    torch.testing.assert_close(loss.metrics["regression_error"], torch.tensor(error.mean()))
    torch.testing.assert_close(loss.metrics["mean_flow_loss"], torch.tensor(fit.mean()))
    torch.testing.assert_close(loss.metrics["velocity_error"], torch.tensor(((x - g(x, t) - v) ** 2).mean()))
    torch.testing.assert_close(loss.metrics["dg_dt_norm"], torch.tensor(((v @ w_x.T + w_t) ** 2).mean() ** 0.5))

    noise, first, second = (value.numpy() for value in draws.consistency)

    def action_of(t: np.ndarray) -> np.ndarray:
        x = (1 - t) * a + t * noise
        return x - t * (x - g(x, t))

    consistency = ((action_of(first) - action_of(second)) ** 2).mean(-1)
    torch.testing.assert_close(loss.per_sample, torch.from_numpy(fit + consistency_weight * consistency))
    assert ("consistency_loss" in loss.metrics) == bool(consistency_weight)
    if consistency_weight:
        torch.testing.assert_close(loss.metrics["consistency_loss"], torch.tensor(consistency.mean()))


def test_no_gradient_flows_through_target_tangent_and_weight() -> None:
    head = make(scale=1.0, adaptive_gamma=0.3, target_clip=None)
    features, action, draws = inputs()
    terms = head.terms(features, action, draws.noise, draws.t)
    assert terms.g.requires_grad and not terms.dg_dt.requires_grad and not terms.target.requires_grad
    head.loss(features, action, draws).per_sample.mean().backward()
    found = [parameter.grad.clone() for parameter in head.parameters()]

    with torch.no_grad():
        terms = head.terms(features, action, draws.noise, draws.t)
        weight = ((terms.g - terms.target).square().mean(-1) + 1e-4) ** -(1 - 0.3)
    head.zero_grad()
    g = head.backbone(features, terms.x_t, draws.t)
    (weight * (g - terms.target).square().mean(-1)).mean().backward()
    for value, parameter in zip(found, head.parameters(), strict=True):
        assert value.abs().max() > 1e-4
        torch.testing.assert_close(value, parameter.grad)


def test_the_second_action_of_the_consistency_term_is_a_constant() -> None:
    features, action, draws = inputs()
    gradients = []
    for weight in (0.0, 2.0):
        head = make(consistency_weight=weight)
        head.loss(features, action, draws).per_sample.mean().backward()
        gradients.append([parameter.grad.clone() for parameter in head.parameters()])

    noise, first, second = draws.consistency

    def action_of(t: Tensor) -> Tensor:
        x_t = paths.interpolate(action, noise, t)
        return x_t - t * (x_t - head.backbone(features, x_t, t))

    head.zero_grad()
    (2.0 * (action_of(first) - action_of(second).detach()).square().mean()).backward()
    for without, both, parameter in zip(*gradients, head.parameters(), strict=True):
        torch.testing.assert_close(both, without + parameter.grad)


def test_target_is_clipped_and_its_stored_value_is_not() -> None:
    features, action, draws = inputs()
    head = make(scale=1.0, target_clip=0.2, adaptive_gamma=1.0)
    terms = head.terms(features, action, draws.noise, draws.t)
    assert terms.target.abs().max() > 0.2
    expected = (terms.g - terms.target.clamp(-0.2, 0.2)).square().mean(-1)
    torch.testing.assert_close(head.loss(features, action, draws).per_sample, expected)


def test_adaptive_weight_has_its_closed_form_and_limits() -> None:
    error = torch.tensor([0.0, 1e-6, 0.5, 20.0], requires_grad=True)
    weight = adaptive_weight(error, gamma=0.8, c=1e-4)
    torch.testing.assert_close(weight, (error.detach() + 1e-4) ** -0.2)
    assert not weight.requires_grad
    torch.testing.assert_close(adaptive_weight(error, gamma=1.0, c=1e-4), torch.ones(4))
    torch.testing.assert_close(adaptive_weight(torch.tensor([1e-9, 1e9]), gamma=0.0, c=0.0), torch.tensor([1e6, 1e-6]))
    assert adaptive_weight(torch.zeros(1), gamma=-1.0, c=0.0).item() == pytest.approx(1e6)


def test_a_perfect_fit_gives_a_finite_loss_and_no_nan_gradient() -> None:
    head = make(LINEAR, scale=0.0, adaptive_c=0.0)
    zero = torch.zeros(2, 2)
    loss = head.loss(torch.randn(2, 3), zero, MeanFlowDraws(zero, torch.rand(2, 1)))
    loss.per_sample.sum().backward()
    assert loss.metrics["regression_error"].item() == 1e-12
    torch.testing.assert_close(loss.per_sample, 1e-12 * (1e-12**-0.2) * torch.ones(2))
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())
