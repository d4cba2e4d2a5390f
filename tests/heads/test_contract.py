"""What every registered head promises, whatever its backbone."""

import inspect

import pytest
import torch

import genpolicy.heads
from genpolicy.heads.base import GenerativeHead
from genpolicy.networks.dit import DiTConfig
from genpolicy.networks.mlp import MLPConfig
from genpolicy.registry import HEADS
from tests.helpers import randomise

BACKBONES = {
    "mlp": MLPConfig(hidden_dims=(9, 7), time_features=6),
    "dit": DiTConfig(width=8, depth=2, time_features=6),
}
VARIANTS = {
    "meanflow": [{}, {"consistency_weight": 0.5}, {"noise": "uniform", "time_steps": 4, "target_clip": None}],
    "gaussian": [{}, {"std": "constant"}],
}
CASES = [
    pytest.param(head, backbone, options, id=f"{head}-{backbone}-{number}")
    for head in HEADS.names()
    for backbone in BACKBONES
    for number, options in enumerate(VARIANTS.get(head, [{}]))
]


def build(head: str, backbone: str, options: dict) -> GenerativeHead:
    config = HEADS[head].config(backbone=BACKBONES[backbone], **options)
    return randomise(HEADS.create(config, feature_dim=3, action_dim=2))


def rows(draws: object, index: int) -> object:
    """Row `index` of a nested tuple of tensors, with its batch axis."""
    if isinstance(draws, torch.Tensor):
        return draws[index : index + 1]
    parts = [rows(one, index) for one in draws]
    return type(draws)(*parts) if hasattr(draws, "_fields") else tuple(parts)


@pytest.mark.parametrize(("head", "backbone", "options"), CASES)
def test_loss_and_samples_of_a_batch_equal_those_of_its_rows(
    head: str, backbone: str, options: dict, generator: torch.Generator
) -> None:
    network = build(head, backbone, options)
    features, action = torch.randn(6, 3), torch.rand(6, 2) * 2 - 1
    draws, noise = network.draw(6, generator), network.noise(6, generator)
    loss, sample = network.loss(features, action, draws), network.sample(features, noise)
    assert loss.per_sample.shape == loss.fit.shape == (6,)
    assert sample.shape == (6, 2)
    for i in range(6):
        one = network.loss(features[i : i + 1], action[i : i + 1], rows(draws, i))
        torch.testing.assert_close(one.per_sample[0], loss.per_sample[i])
        torch.testing.assert_close(one.fit[0], loss.fit[i])
        torch.testing.assert_close(network.sample(features[i], noise[i]), sample[i])


@pytest.mark.parametrize(("head", "backbone", "options"), CASES)
def test_samples_with_candidate_axes_equal_plain_ones(
    head: str, backbone: str, options: dict, generator: torch.Generator
) -> None:
    network, features = build(head, backbone, options), torch.randn(4, 3)
    noise = torch.stack([network.noise(4, generator) for _ in range(3)])
    samples = network.sample(features.expand(3, 4, 3), noise)
    for candidate in range(3):
        torch.testing.assert_close(samples[candidate], network.sample(features, noise[candidate]))


@pytest.mark.parametrize(("head", "backbone", "options"), CASES)
def test_loss_moves_every_parameter(head: str, backbone: str, options: dict, generator: torch.Generator) -> None:
    network = build(head, backbone, options)
    network.loss(torch.randn(6, 3), torch.rand(6, 2), network.draw(6, generator)).per_sample.mean().backward()
    still = {key for key, value in network.named_parameters() if value.grad is None or not value.grad.any()}
    if head == "gaussian" and backbone == "dit":
        # without a time the condition is zero, and of the modulations only the biases act
        still = {key for key in still if not key.endswith("modulation.weight")}
    assert not still


@pytest.mark.parametrize(("head", "backbone", "options"), CASES)
def test_samples_are_differentiable_in_the_parameters(
    head: str, backbone: str, options: dict, generator: torch.Generator
) -> None:
    network = build(head, backbone, options)
    network.sample(torch.randn(6, 3), network.noise(6, generator)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(("head", "backbone", "options"), CASES)
def test_randomness_comes_from_the_generator_alone(head: str, backbone: str, options: dict) -> None:
    network, before = build(head, backbone, options), torch.get_rng_state()

    def numbers(seed: int) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        draws, noise = network.draw(5, generator), network.noise(5, generator)
        assert noise.shape == (5, *network.noise_shape)
        loss = network.loss(torch.ones(5, 3), torch.zeros(5, 2), draws).per_sample
        return [loss, noise]

    for first, again in zip(numbers(1), numbers(1), strict=True):
        torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert (numbers(1)[1] - numbers(2)[1]).abs().max() > 1e-3
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("head", "backbone", "options"), CASES)
def test_metrics_are_detached_scalars(head: str, backbone: str, options: dict, generator: torch.Generator) -> None:
    network = build(head, backbone, options)
    metrics = network.loss(torch.randn(6, 3), torch.rand(6, 2), network.draw(6, generator)).metrics
    assert metrics
    assert all(value.shape == () and not value.requires_grad for value in metrics.values())


def test_no_file_of_heads_names_a_critic_or_draws_from_a_global_generator() -> None:
    for entry in HEADS.entries():
        source = inspect.getsource(inspect.getmodule(entry.cls))
        assert "genpolicy.critics" not in source and "genpolicy.policies" not in source
        assert "randn_like" not in source and "rand_like" not in source
    assert "genpolicy.critics" not in inspect.getsource(genpolicy.heads)
