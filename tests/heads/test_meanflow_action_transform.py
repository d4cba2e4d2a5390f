"""The space of generated actions: the maps, what the regression sees, and where samples lie."""

import pytest
import torch

from genpolicy.errors import ConfigError
from genpolicy.heads.action_transforms import Identity, Softsign, Tanh, make_action_transform
from genpolicy.heads.meanflow import MeanFlowConfig, MeanFlowHead
from genpolicy.networks.mlp import MLPConfig
from tests.helpers import randomise

TRANSFORMS = [Identity(), Softsign(scale=0.1, margin=0.02), Softsign(scale=1.0, margin=0.02), Tanh(margin=0.02)]


def name_of(transform: object) -> str:
    return "-".join([type(transform).__name__, *map(str, vars(transform).values())])


def make(**options: object) -> MeanFlowHead:
    config = MeanFlowConfig(backbone=MLPConfig(hidden_dims=(9,), time_features=6), **options)
    return randomise(MeanFlowHead(config, feature_dim=3, action_dim=2))


@pytest.mark.parametrize("transform", TRANSFORMS, ids=name_of)
def test_an_action_comes_back_from_its_latent(transform: Identity | Softsign | Tanh) -> None:
    action = torch.linspace(-0.98, 0.98, 50)
    latent = transform.to_latent(action)
    torch.testing.assert_close(transform.to_action(latent), action)
    assert (latent.diff() > 0).all()
    torch.testing.assert_close(latent, -latent.flip(0))


@pytest.mark.parametrize("transform", TRANSFORMS[1:], ids=name_of)
def test_actions_at_the_bounds_stay_finite_and_latents_stay_inside(transform: Softsign | Tanh) -> None:
    bounds = torch.tensor([-1.0, 1.0])
    torch.testing.assert_close(transform.to_action(transform.to_latent(bounds)), 0.98 * bounds)
    assert (transform.to_action(torch.tensor([-50.0, 50.0])).abs() <= 1).all()


def test_softsign_is_the_inverse_that_the_reference_lacks() -> None:
    """Its maps are (1 - c) a / (1 - |a|) and softsign(y) / (1 - c), c its scale_norm_factor: not inverses."""
    c, action = 0.99, torch.tensor([-0.5, 0.1, 0.5])
    ours = Softsign(scale=1 - c, margin=1e-7)
    latent = (1 - c) * action / (1 - action.abs())
    torch.testing.assert_close(ours.to_latent(action), latent)
    torch.testing.assert_close(ours.to_action(latent), action)
    back_in_the_reference = latent / (1 + latent.abs()) / (1 - c)
    torch.testing.assert_close(back_in_the_reference, action / (1 - c * action.abs()))
    assert back_in_the_reference[2].item() == pytest.approx(0.990, abs=1e-3)


def test_tanh_is_torchs() -> None:
    latent = torch.linspace(-2, 2, 9)
    torch.testing.assert_close(Tanh(0.01).to_action(latent), latent.tanh())
    torch.testing.assert_close(Tanh(0.01).to_latent(latent.tanh()), latent)


def test_latent_targets_of_the_defaults_stay_within_the_targets_clip() -> None:
    config = MeanFlowConfig()
    for name in ("softsign", "tanh"):
        transform = make_action_transform(name, softsign_scale=config.softsign_scale, margin=config.action_margin)
        assert transform.to_latent(torch.tensor(1.0)) < config.target_clip


@pytest.mark.parametrize("name", ["softsign", "tanh"])
def test_loss_is_that_of_the_latent_actions_and_samples_are_squashed(name: str) -> None:
    plain, squashed = make(consistency_weight=0.5), make(consistency_weight=0.5, action_transform=name)
    transform, features = squashed.action_transform, torch.randn(6, 3)
    action = torch.tensor([-1.0, -0.9, -0.1, 0.2, 0.7, 1.0])[:, None].repeat(1, 2)
    draws = plain.draw(6, torch.Generator().manual_seed(0))
    latent = transform.to_latent(action)
    for one, other in ((squashed.loss(features, action, draws), plain.loss(features, latent, draws)),):
        torch.testing.assert_close(one.per_sample, other.per_sample)
    torch.testing.assert_close(
        squashed.terms(features, action, draws.noise, draws.t).x_t, (1 - draws.t) * latent + draws.t * draws.noise
    )
    noise = 10 * torch.randn(6, 2)
    sample = squashed.sample(features, noise)
    torch.testing.assert_close(sample, transform.to_action(plain.sample(features, noise)))
    assert plain.sample(features, noise).abs().max() > 1 > sample.abs().max()


def test_several_steps_are_squashed_once_at_the_end() -> None:
    options = {"two_time": True, "sampling_steps": 3}
    plain, squashed = make(**options), make(action_transform="tanh", **options)
    features, noise = torch.randn(6, 3), torch.randn(6, 2)
    torch.testing.assert_close(squashed.sample(features, noise), plain.sample(features, noise).tanh())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"softsign_scale": 0.0}, "softsign_scale is 0"),
        ({"action_margin": 0.0}, "action_margin is 0"),
    ],
)
def test_impossible_transforms_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MeanFlowConfig(**options)
