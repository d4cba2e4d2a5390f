"""The kit notices broken promises, each by the check that is meant for it, and says what happened."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genpolicy.critics import TDConfig, TDCritic
from genpolicy.heads import GaussianConfig, GaussianHead, GenerativeHead, HeadLoss
from genpolicy.networks import MLP, MLPConfig
from genpolicy.policies import BehaviourCloning, BehaviourCloningConfig, QGradient, QGradientConfig
from genpolicy.testing import check_backbone, check_critic, check_head, check_policy

SMALL = MLPConfig(hidden_dims=(16,))


def make(cls: type[GaussianHead]) -> Callable[..., GenerativeHead]:
    return lambda **sizes: cls(GaussianConfig(backbone=SMALL), **sizes)


class SumOverBatch(GaussianHead):
    def loss(self, features: Tensor, action: Tensor, draws: Any) -> HeadLoss:
        loss = super().loss(features, action, draws)
        return loss._replace(per_sample=loss.per_sample.sum())


class RowsTalk(GaussianHead):
    def loss(self, features: Tensor, action: Tensor, draws: Any) -> HeadLoss:
        return super().loss(features - features.mean(0), action, draws)


class Secretive(GaussianHead):
    def sample(self, features: Tensor, noise: Tensor) -> Tensor:
        return super().sample(features, noise) + torch.randn_like(noise)


class Counting(GaussianHead):
    def __init__(self, config: Any, **sizes: int):
        super().__init__(config, **sizes)
        self.register_buffer("count", torch.zeros(()))

    def loss(self, features: Tensor, action: Tensor, draws: Any) -> HeadLoss:
        self.count += 1
        return super().loss(features, action, draws)


class Idle(GaussianHead):
    def __init__(self, config: Any, **sizes: int):
        super().__init__(config, **sizes)
        self.unused = nn.Parameter(torch.zeros(3))


class Detached(GaussianHead):
    def sample(self, features: Tensor, noise: Tensor) -> Tensor:
        return super().sample(features, noise.detach())


class Silent(GaussianHead):
    def sample(self, features: Tensor, noise: Tensor) -> Tensor:
        return super().sample(features, 0 * noise)


class SinglePrecision(GaussianHead):
    def sample(self, features: Tensor, noise: Tensor) -> Tensor:
        return super().sample(features, noise).float()


class HostBranch(GaussianHead):
    def sample(self, features: Tensor, noise: Tensor) -> Tensor:
        action = super().sample(features, noise)
        return action if action.sum() > 0 else 1 * action


class GradientInMetrics(GaussianHead):
    def loss(self, features: Tensor, action: Tensor, draws: Any) -> HeadLoss:
        loss = super().loss(features, action, draws)
        return loss._replace(metrics={"nll": loss.per_sample.mean()})


class LoudNoise(GaussianHead):
    def noise(self, n: int, generator: torch.Generator) -> Tensor:
        return 1.2 * super().noise(n, generator)


class OneMode(GaussianHead):
    unimodal = False


class WrongDensity(GaussianHead):
    def sample_with_log_prob(self, features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        action, log_prob = super().sample_with_log_prob(features, noise)
        return action, log_prob + 1


class OtherLoss(GaussianHead):
    def loss_with_sample(self, features: Tensor, action: Tensor, draws: Any) -> tuple[HeadLoss, Tensor]:
        return self.loss(features, action + 1, draws), self.sample(features, torch.zeros_like(action))


class ConstantSample(GaussianHead):
    def loss_with_sample(self, features: Tensor, action: Tensor, draws: Any) -> tuple[HeadLoss, Tensor]:
        return self.loss(features, action, draws), self.sample(features, torch.zeros_like(action)).detach()


@pytest.mark.parametrize(
    ("cls", "promised", "found"),
    [
        (SumOverBatch, "per_sample and fit", r"loss\.per_sample has shape \(\), not \(6,\)"),
        (RowsTalk, "do not depend on the other rows", "row 0 of the loss, in the batch and alone: they differ by"),
        (Secretive, "functions of their arguments alone", "two calls with the same arguments: they differ"),
        (Counting, "functions of their arguments alone", "'count' changed"),
        (Idle, "every trainable parameter gets", "no gradient reaches unused; use them, remove them"),
        (LoudNoise, "noise_law tells what noise draws", r"noise_law is \('normal', 1.0\), but the mean of"),
        (Detached, "samples differ with the noise, differentiably", "no gradient flows from the sample to its noise"),
        (Silent, "samples differ with the noise", "other noise gives the same actions"),
        (SinglePrecision, "sample takes any number of batch axes", "torch.float32, not torch.float64"),
        (HostBranch, "run under torch.func.vmap", "data-dependent control flow"),
        (GradientInMetrics, "loss gives HeadLoss", "metric 'nll' carries a gradient; detach it"),
        (OneMode, "two modes", "Declare `unimodal = True`"),
        (WrongDensity, "sample_with_log_prob gives", "both log densities: they differ by 1"),
        (
            OtherLoss,
            "loss_with_sample gives what loss gives",
            "the losses of loss and loss_with_sample: they differ by",
        ),
        (ConstantSample, "actions with a gradient", "the actions of loss_with_sample have no gradient"),
    ],
)
def test_a_broken_head_is_noticed(cls: type[GaussianHead], promised: str, found: str) -> None:
    with pytest.raises(AssertionError, match=f"(?s)The head {cls.__name__}. Promised: .*{promised}.* Found: .*{found}"):
        check_head(make(cls), training_steps=100)


class Bootstrapping(TDCritic):
    def loss(self, batch: Any, policy: Any, draws: Any) -> Any:
        return super().loss(batch._replace(masks=torch.ones_like(batch.masks)), policy, draws)


class Pushing(TDCritic):
    def loss(self, batch: Any, policy: Any, draws: Any) -> Any:
        loss = super().loss(batch, policy, draws)
        return loss._replace(loss=loss.loss + policy.next_actions(batch.features, draws.next_noise).mean())


class Resting(TDCritic):
    def update_targets(self) -> None:
        pass


class Wandering(TDCritic):
    @torch.no_grad()
    def update_targets(self) -> None:
        super().update_targets()
        next(self.online.parameters()).add_(0.1)


class Stubborn(TDCritic):
    def loss(self, batch: Any, policy: Any, draws: Any) -> Any:
        return super().loss(batch._replace(rewards=-batch.rewards), policy, draws)


@pytest.mark.parametrize(
    ("cls", "promised", "found"),
    [
        (Bootstrapping, "where the mask is 0", "the loss for two different next observations: they differ"),
        (Pushing, "nothing of the policy does", "the loss has a gradient in the policy's parameters"),
        (Resting, "update_targets moves frozen parameters", "rests"),
        (Wandering, "update_targets moves frozen parameters", "the online parameter 'online.* moved"),
        (Stubborn, "Q becomes the reward", "of the reward's variance"),
    ],
)
def test_a_broken_critic_is_noticed(cls: type[TDCritic], promised: str, found: str) -> None:
    with pytest.raises(AssertionError, match=f"The critic {cls.__name__}. Promised: .*{promised}.* Found: .*{found}"):
        check_critic(lambda **sizes: cls(TDConfig(hidden_dims=(16,)), **sizes), training_steps=50)


class Unclipped(BehaviourCloning):
    def act(self, features: Tensor, noise: Tensor, critic: Any) -> Tensor:
        return 2 * super().act(features, noise, critic)


class Contrary(QGradient):
    def loss(self, batch: Any, critic: Any, draws: Any, state: Any) -> Any:
        loss = super().loss(batch, critic, draws, state)
        return loss._replace(loss=-loss.loss)


class LosesState(QGradient):
    def initial_state(self) -> dict[str, Tensor]:
        return {"forgotten": torch.zeros(())}


@pytest.mark.parametrize(
    ("cls", "config", "promised", "found"),
    [
        (Unclipped, BehaviourCloningConfig(), r"act gives \(B, A\) within the bounds", r"act leaves \[-1, 1\]"),
        (
            LosesState,
            QGradientConfig(),
            "whose state has the entries",
            r"state has \[\], initial_state \['forgotten'\]",
        ),
        (Contrary, QGradientConfig(acting="single", bc_weight=0.1), "acts better", "the mean Q of its actions is"),
    ],
)
def test_a_broken_policy_is_noticed(cls: Any, config: Any, promised: str, found: str) -> None:
    with pytest.raises(AssertionError, match=f"The policy {cls.__name__}. Promised: .*{promised}.* Found: .*{found}"):
        check_policy(lambda **parts: cls(config, **parts))


class Deaf(MLP):
    def forward(self, features: Tensor, x: Tensor | None = None, *times: Tensor) -> Tensor:
        return super().forward(features, x, *(0 * t for t in times))


class OwnTimes(MLP):
    def forward(self, features: Tensor, x: Tensor | None = None, *times: Tensor) -> Tensor:
        return self.layers(torch.cat([features, *([] if x is None else [x]), *map(self.embed_time, times)], dim=-1))


@pytest.mark.parametrize(
    ("cls", "promised", "found"),
    [
        (Deaf, "every input and time", "input number 3 has no influence"),
        (OwnTimes, r"a time given once, \(1, 1\), counts for all rows", "RuntimeError: Sizes of tensors must match"),
    ],
)
def test_a_broken_backbone_is_noticed(cls: type[MLP], promised: str, found: str) -> None:
    match = f"The backbone {cls.__name__} with .*num_times=1. Promised: .*{promised}.* Found: .*{found}"
    with pytest.raises(AssertionError, match=match):
        check_backbone(lambda **sizes: cls(SMALL, **sizes))


def test_the_kit_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    check_backbone(lambda **sizes: MLP(SMALL, **sizes))
    assert torch.equal(before, torch.get_rng_state())
