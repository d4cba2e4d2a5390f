"""A head and a critic whose values can be computed by hand."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from genpolicy.batch import Batch
from genpolicy.critics.base import Critic, CriticConfig, CriticLoss
from genpolicy.heads.base import GenerativeHead, HeadLoss

B, F, A = 5, 3, 2


class StubHead(GenerativeHead):
    """sample = gain * noise + features[:A]; loss = |action - gain * draw|^2, plus 1 that `fit` leaves out."""

    def __init__(self, gain: float = 1.5):
        super().__init__(None, feature_dim=F, action_dim=A)
        self.gain = nn.Parameter(torch.tensor(gain))

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        return self.noise(n, generator)

    def loss(self, features: Tensor, action: Tensor, draws: Tensor) -> HeadLoss:
        error = (action - self.gain * draws).square().sum(-1)
        return HeadLoss(error + 1, error, {"error": error.detach().mean()})

    def sample(self, features: Tensor, noise: Tensor) -> Tensor:
        return self.gain * noise + features[..., :A]


class StubCritic(Critic):
    """Q_i = slope_i . action + 0.1 sum(features); the target's slopes are others."""

    def __init__(self, online: list, target: list | None = None):
        super().__init__(CriticConfig(), feature_dim=F, action_dim=A)
        self.online = nn.Parameter(torch.tensor(online))
        self.target = nn.Parameter(torch.tensor(target or online), requires_grad=False)

    def q(self, features: Tensor, action: Tensor) -> Tensor:
        return self._value(self.online, features, action)

    def target_q(self, features: Tensor, action: Tensor) -> Tensor:
        return self._value(self.target, features, action)

    def _value(self, slopes: Tensor, features: Tensor, action: Tensor) -> Tensor:
        return torch.einsum("ea,...a->e...", slopes, action) + 0.1 * features.sum(-1)

    def draw(self, n: int, policy: Any, generator: torch.Generator) -> None:
        return None

    def loss(self, batch: Batch, policy: Any, draws: Any) -> CriticLoss:
        raise NotImplementedError


def make_batch() -> Batch:
    return Batch(torch.randn(B, F), torch.rand(B, A), torch.randn(B), torch.randn(B, F), torch.ones(B), torch.ones(B))


class SharingHead(StubHead):
    """A stub whose policy shall improve the samples of its loss."""

    def loss_with_sample(self, features: Tensor, action: Tensor, draws: Tensor) -> tuple[HeadLoss, Tensor]:
        return self.loss(features, action, draws), self.sample(features, draws)


class DensityHead(StubHead):
    """A stub that knows its density: N(features[:A], gain^2)."""

    def log_prob(self, features: Tensor, action: Tensor) -> Tensor:
        return self._log_density((action - features[..., :A]) / self.gain)

    def sample_with_log_prob(self, features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return self.sample(features, noise), self._log_density(noise)

    def _log_density(self, noise: Tensor) -> Tensor:
        return -(0.5 * noise.square() + self.gain.log() + 0.5 * math.log(2 * math.pi)).sum(-1)


class ValueCritic(StubCritic):
    """A stub with a value: V = 0.3 features[0], plus a parameter that is 0."""

    def __init__(self, online: list, target: list | None = None):
        super().__init__(online, target)
        self.shift = nn.Parameter(torch.tensor(0.0))

    def value(self, features: Tensor) -> Tensor:
        return 0.3 * features[..., 0] + self.shift
