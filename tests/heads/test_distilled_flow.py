"""The distilled flow: what each network learns from, and which noise is shared."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from genpolicy.errors import ConfigError
from genpolicy.heads.distilled_flow import DistilledFlowConfig, DistilledFlowHead
from genpolicy.heads.protocols import HasLossWithSample
from genpolicy.networks.mlp import MLPConfig
from tests.heads.oracle import marginal_velocity
from tests.helpers import numpy_mlp, randomise, small_agent


def make(hidden: tuple[int, ...] = (6,), *, scale: float = 0.6, **options: object) -> DistilledFlowHead:
    config = DistilledFlowConfig(backbone=MLPConfig(hidden_dims=hidden, time_embedding="raw"), **options)
    return randomise(DistilledFlowHead(config, feature_dim=3, action_dim=2), scale=scale)


def layers(network: nn.Module) -> list[tuple[np.ndarray, ...]]:
    linears = [layer for layer in network.layers if isinstance(layer, nn.Linear)]
    return [(layer.weight.detach().numpy().T, layer.bias.detach().numpy()) for layer in linears]


def by_hand(head: DistilledFlowHead, features: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The flow's unclipped Euler action in the paper's clock, and the student's action."""
    x, steps = noise, head.config.flow_steps
    for i in range(steps):
        time = np.full((len(x), 1), i / steps)
        x = x + numpy_mlp(np.concatenate([features, x, time], axis=-1), layers(head.flow.backbone)) / steps
    return x, numpy_mlp(np.concatenate([features, noise], axis=-1), layers(head.student))


def test_loss_by_hand(generator: torch.Generator) -> None:
    head, features, action = make(distill_weight=0.7, flow_steps=4), torch.randn(30, 3), torch.rand(30, 2)
    draws = head.draw(30, generator)
    taught, student = by_hand(head, features.numpy(), draws.noise.numpy())
    assert (np.abs(taught) > 1).any() and (np.abs(student) > 1).any()  # so that each clip would show
    flow = head.flow.loss(features, action, draws.flow).per_sample.detach()
    distillation = ((student - np.clip(taught, -1, 1)) ** 2).mean(-1)
    loss = head.loss(features, action, draws)
    np.testing.assert_allclose(loss.per_sample.detach().numpy(), flow.numpy() + 0.7 * distillation, rtol=1e-9)
    torch.testing.assert_close(loss.fit, flow)
    torch.testing.assert_close(loss.metrics["flow_loss"], flow.mean())
    np.testing.assert_allclose(loss.metrics["distill_loss"].numpy(), distillation.mean(), rtol=1e-9)
    np.testing.assert_allclose(head.sample(features, draws.noise).detach().numpy(), student, rtol=1e-9, atol=1e-12)
    assert head.steps == 1


def test_flow_and_distillation_have_a_noise_each_and_the_loss_hands_over_the_action_of_the_second(
    generator: torch.Generator,
) -> None:
    head, features, action = make(), torch.randn(5, 3), torch.rand(5, 2)
    assert isinstance(head, HasLossWithSample)
    draws = head.draw(5, generator)
    assert draws.flow.noise.shape == draws.noise.shape == (5, 2)
    assert (draws.flow.noise - draws.noise).abs().min() > 0
    loss, sample = head.loss_with_sample(features, action, draws)
    assert torch.equal(loss.per_sample, head.loss(features, action, draws).per_sample)
    assert torch.equal(sample, head.sample(features, draws.noise))


def test_each_network_learns_from_its_own_term(generator: torch.Generator) -> None:
    """The flow from the data alone, with the very gradient of a flow head; the student from the distillation alone."""
    head, features, action = make(distill_weight=3.0), torch.randn(8, 3), torch.rand(8, 2)
    draws = head.draw(8, generator)
    flow, student = list(head.flow.parameters()), list(head.student.parameters())
    found = torch.autograd.grad(head.loss(features, action, draws).per_sample.mean(), [*flow, *student])
    alone = torch.autograd.grad(head.flow.loss(features, action, draws.flow).per_sample.mean(), flow)
    target = head.flow.sample(features, draws.noise).clamp(-1, 1).detach()
    distillation = 3.0 * (head.student(features, draws.noise) - target).square().mean()
    for one, other in zip(found, [*alone, *torch.autograd.grad(distillation, student)], strict=True):
        torch.testing.assert_close(one, other)


def test_a_sample_reaches_the_student_alone() -> None:
    head = make()
    head.sample(torch.randn(8, 3), torch.randn(8, 2)).sum().backward()
    assert all(parameter.grad is None for parameter in head.flow.parameters())
    assert all(parameter.grad.any() for parameter in head.student.parameters())


def test_options_of_the_flow_reach_it(generator: torch.Generator) -> None:
    head = make(flow_steps=3, solver="heun", time_law="beta", time_a=9.0, time_b=1.0)
    assert head.flow.steps == 6 and head.steps == 1
    t = head.draw(4000, generator).flow.t
    assert t.mean().item() == pytest.approx(0.9, abs=0.01)  # Beta(9, 1); a standard error is 0.0015


def test_a_policy_follows_the_critic_at_the_noise_of_the_distillation() -> None:
    """A Q-gradient policy evaluates the student once: at the noise of the distillation."""
    agent = small_agent("fql")
    draws = agent.draw(8)["policy"]
    head, seen = agent.policy.head, []
    handle = head.student.register_forward_hook(lambda module, inputs, output: seen.append(inputs[1]))
    batch = {
        "observations": torch.randn(8, 3),
        "actions": torch.rand(8, 2),
        "next_observations": torch.randn(8, 3),
        "rewards": torch.randn(8),
        "masks": torch.ones(8),
    }
    agent.policy.loss(agent.encode(batch), agent.critic, draws, agent.state)
    handle.remove()
    assert len(seen) == 1
    assert torch.equal(seen[0], draws.head.noise)


class Exact(nn.Module):
    def forward(self, features: Tensor, x_t: Tensor, share_of_action: Tensor) -> Tensor:
        return -marginal_velocity(x_t, 1 - share_of_action)


def test_the_student_learns_the_map_of_an_exact_flow(generator: torch.Generator) -> None:
    """With the exact velocity of Gaussian data in the flow, the student comes near its action for each noise."""
    head = make((32, 32), flow_steps=10, scale=0.3)
    head.flow.backbone = Exact()
    optimizer = torch.optim.Adam(head.student.parameters(), lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        loss = head.loss(torch.zeros(256, 3), torch.zeros(256, 2), head.draw(256, generator))
        loss.per_sample.mean().backward()
        optimizer.step()
    noise = head.noise(1000, generator)
    with torch.no_grad():
        error = head.sample(torch.zeros(1000, 3), noise) - head.flow.sample(torch.zeros(1000, 3), noise).clamp(-1, 1)
    # actions have a deviation of 0.3 in each dimension
    assert error.square().mean().sqrt() < 0.03


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"distill_weight is -1\.0; it must be at least 0"):
        DistilledFlowConfig(distill_weight=-1.0)
    with pytest.raises(ConfigError, match="flow_steps is 0; it must be at least 1"):
        DistilledFlowConfig(flow_steps=0)
