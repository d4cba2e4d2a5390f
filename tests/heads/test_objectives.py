"""Objectives: values against NumPy, gradients against the papers' losses, the curriculum, and what is refused."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from genpolicy import Agent
from genpolicy.errors import ConfigError
from genpolicy.heads import paths
from genpolicy.heads.meanflow import MeanFlowConfig, MeanFlowDraws, MeanFlowHead
from genpolicy.heads.objectives import OBJECTIVES, Alpha, Field, Interval, Objective, Regression
from genpolicy.networks.dit import DiTConfig
from genpolicy.networks.mlp import MLPConfig
from genpolicy.testing.common import rows
from tests.helpers import randomise, raw_batch, small_agent

LINEAR = MLPConfig(hidden_dims=(), time_embedding="raw")
CURVED = MLPConfig(hidden_dims=(9, 7), time_features=6)
NEW = ("alpha", "improved", "split")
N = 6


def make(objective: str, backbone: MLPConfig | DiTConfig = CURVED, **options: object) -> MeanFlowHead:
    config = MeanFlowConfig(backbone=backbone, two_time=True, objective=objective, **options)
    return randomise(MeanFlowHead(config, feature_dim=3, action_dim=2))


def inputs(objective: str) -> tuple[Tensor, Tensor, MeanFlowDraws]:
    """Features, actions and draws; rows 0 and 1 have intervals of no length and from 0."""
    t = torch.rand(N, 1)
    r = t * torch.rand(N, 1)
    r[0], r[1] = t[0], 0.0
    numbers = {"split": torch.rand(N, 1), "alpha": torch.full((N, 1), 0.3)}.get(objective, ())
    return torch.randn(N, 3), torch.randn(N, 2), MeanFlowDraws(torch.randn(N, 2), t, r=r, objective=numbers)


def gradients(loss: Tensor, head: MeanFlowHead) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(head.parameters())))


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert other.abs().max() > 1e-4
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("objective", OBJECTIVES.names())
@pytest.mark.parametrize("reformulation", ["residual", "average_velocity", "double_residual"])
def test_loss_equals_a_numpy_derivation(objective: str, reformulation: str) -> None:
    """With g linear in (features, x_t, r, t) every derivative is a product with the weights."""
    head = make(objective, LINEAR, reformulation=reformulation, adaptive_gamma=0.5, adaptive_c=0.1, target_clip=2.0)
    features, action, draws = inputs(objective)
    f, a, e, t, r = (value.numpy() for value in (features, action, draws.noise, draws.t, draws.r))
    (layer,) = head.backbone.layers
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    w_f, w_x, w_r, w_t = weight[:, :3], weight[:, 3:5], weight[:, 5], weight[:, 6]
    factor = {"residual": 1.0, "average_velocity": 0.0, "double_residual": 2.0}[reformulation]
    sign = 1.0 if reformulation == "average_velocity" else -1.0

    def g(x: np.ndarray, r: np.ndarray, t: np.ndarray) -> np.ndarray:
        return f @ w_f.T + x @ w_x.T + r * w_r + t * w_t + bias

    def u(x: np.ndarray, r: np.ndarray, t: np.ndarray) -> np.ndarray:
        return factor * x + sign * g(x, r, t)

    x, v = (1 - t) * a + t * e, e - a
    if objective in ("meanflow", "improved"):
        direction = v if objective == "meanflow" else u(x, t, t)
        du_dt = factor * direction + sign * (direction @ w_x.T + w_t)
        u_target = v - (t - r) * du_dt
    elif objective == "split":
        share = draws.objective.numpy()
        s = (1 - share) * t + share * r
        late = u(x, s, t)
        early = u(x - (t - s) * late, r, s)
        u_target = np.where(r == t, v, (1 - share) * early + share * late)
    else:
        alpha = draws.objective.numpy()
        s = alpha * r + (1 - alpha) * t
        u_target = v + (1 - alpha) / alpha * (u(x - (t - s) * v, r, s) - u(x, r, t))
    target = sign * (u_target - factor * x)
    assert (np.abs(target) > 2).any() and (np.abs(target) < 2).any()
    error = ((g(x, r, t) - np.clip(target, -2, 2)) ** 2).mean(-1)
    loss = head.loss(features, action, draws)
    torch.testing.assert_close(loss.per_sample, torch.from_numpy(error / np.sqrt(error + 0.1)))
    torch.testing.assert_close(loss.metrics["regression_error"], torch.tensor(error.mean()))
    assert ("dg_dt_norm" in loss.metrics) == (objective in ("meanflow", "improved"))


@pytest.mark.parametrize("objective", OBJECTIVES.names())
def test_rows_without_length_are_flow_matching(objective: str) -> None:
    head = make(objective)
    features, action, draws = inputs(objective)
    numbers = draws.objective if isinstance(draws.objective, Tensor) else None
    terms = head.terms(features, action, draws.noise, draws.t, draws.t, numbers)
    torch.testing.assert_close(terms.target, terms.x_t - (draws.noise - action))


@pytest.mark.parametrize("objective", OBJECTIVES.names())
def test_no_gradient_flows_through_the_target(objective: str) -> None:
    head = make(objective, adaptive_gamma=1.0, target_clip=None)
    features, action, draws = inputs(objective)
    found = gradients(head.loss(features, action, draws).per_sample.mean(), head)
    with torch.no_grad():
        terms = head._terms(features, action, draws)
    g = head.backbone(features, terms.x_t, draws.r, draws.t)
    assert_same(found, gradients((g - terms.target.detach()).square().mean(), head))


@pytest.mark.parametrize("alpha", [1.0, 0.3, 0.005])
def test_the_gradient_of_alpha_is_that_of_the_papers_weighted_loss(alpha: float) -> None:
    """1 / alpha |u - sg(alpha v + (1 - alpha) u(x_s, r, s))|^2; the value is that over alpha again."""
    head = make("alpha", adaptive_gamma=1.0, target_clip=None, reformulation="average_velocity")
    features, action, draws = inputs("alpha")
    draws = draws._replace(objective=torch.full((N, 1), alpha))
    loss = head.loss(features, action, draws).per_sample.mean()
    r, t, v = draws.r, draws.t, draws.noise - action
    s, x_t = alpha * r + (1 - alpha) * t, paths.interpolate(action, draws.noise, t)
    u, u_s = head.backbone(features, x_t, r, t), head.backbone(features, x_t - (t - s) * v, r, s)
    papers = (u - (alpha * v + (1 - alpha) * u_s).detach()).square().mean() / alpha
    torch.testing.assert_close(loss, papers / alpha)
    assert_same(gradients(loss, head), gradients(papers, head))


def test_alpha_of_one_is_trajectory_flow_matching_and_small_alpha_is_meanflow() -> None:
    features, action, draws = inputs("alpha")
    head = make("alpha", reformulation="average_velocity")

    def target(alpha: float) -> Tensor:
        return head.terms(features, action, draws.noise, draws.t, draws.r, torch.full((N, 1), alpha)).target

    torch.testing.assert_close(target(1.0), draws.noise - action)
    limit = make("meanflow", reformulation="average_velocity").terms(features, action, draws.noise, draws.t, draws.r)
    assert (target(1.0) - limit.target).abs().max() > 0.1
    errors = [(target(alpha) - limit.target).abs().max().item() for alpha in (1e-3, 1e-4)]
    assert errors[0] < 1e-2 and errors[0] / errors[1] == pytest.approx(10, rel=0.05)  # of first order in alpha


def test_improved_is_the_papers_loss_on_the_velocity() -> None:
    """|u + (t - r) sg(du/dt) - v|^2 with du/dt along (u(x_t, t, t), 0, 1), by finite differences."""
    head, h = make("improved", adaptive_gamma=1.0, target_clip=None), 1e-4
    features, action, draws = inputs("improved")
    r, t, v = draws.r, draws.t, draws.noise - action
    x_t = paths.interpolate(action, draws.noise, t)

    def u(x: Tensor, r: Tensor, t: Tensor) -> Tensor:
        return x - head.backbone(features, x, r, t)

    with torch.no_grad():
        own = u(x_t, t, t)

        def along(step: float) -> Tensor:
            return u(x_t + step * own, r, t + step)

        du_dt = (8 * (along(h) - along(-h)) - (along(2 * h) - along(-2 * h))) / (12 * h)
        other = (u(x_t + h * v, r, t + h) - u(x_t - h * v, r, t - h)) / (2 * h)
    assert (du_dt - other).abs().max() > 0.1  # the direction matters here
    papers = (u(x_t, r, t) + (t - r) * du_dt - v).square().mean()
    loss = head.loss(features, action, draws).per_sample.mean()
    torch.testing.assert_close(loss, papers, atol=1e-9, rtol=1e-9)
    assert_same(gradients(loss, head), gradients(papers, head))


def test_a_split_of_no_length_changes_nothing() -> None:
    """lambda = 0 leaves the whole interval to the early jump: the target is the network's own answer."""
    head = make("split")
    features, action, draws = inputs("split")
    terms = head.terms(features, action, draws.noise, draws.t, draws.r, torch.zeros(N, 1))
    longer = (draws.r < draws.t).flatten()
    torch.testing.assert_close(terms.target[longer], terms.g[longer])
    halves = head.terms(features, action, draws.noise, draws.t, draws.r, torch.full((N, 1), 0.5))
    assert (halves.target - halves.g)[longer].abs().max() > 0.01


# The contract of heads


@pytest.mark.parametrize("objective", NEW)
@pytest.mark.parametrize("backbone", [CURVED, DiTConfig(width=8, depth=2, time_features=6)], ids=["mlp", "dit"])
def test_loss_of_a_batch_equals_that_of_its_rows_and_moves_every_parameter(
    objective: str, backbone: MLPConfig | DiTConfig
) -> None:
    head = make(objective, backbone, consistency_weight=0.5)
    features, action = torch.randn(N, 3), torch.rand(N, 2)
    draws = head.draw_at(0.5, N, torch.Generator().manual_seed(0))
    loss = head.loss(features, action, draws)
    for i in range(N):
        one = head.loss(features[i : i + 1], action[i : i + 1], rows(draws, slice(i, i + 1)))
        torch.testing.assert_close(one.per_sample[0], loss.per_sample[i])
    assert all(value.shape == () and not value.requires_grad for value in loss.metrics.values())
    assert all(gradient.any() for gradient in gradients(loss.per_sample.mean(), head))


def test_split_draws_a_share_of_the_interval_for_each_row(generator: torch.Generator) -> None:
    share = make("split").draw(20_000, generator).objective
    assert share.shape == (20_000, 1) and share.min() >= 0 and share.max() < 1
    assert share.mean().item() == pytest.approx(0.5, abs=0.01)
    assert share.var().item() == pytest.approx(1 / 12, rel=0.03)


# The curriculum


def test_alpha_falls_along_a_sigmoid_between_its_clamps() -> None:
    alphas = [Alpha().alpha(k / 100) for k in range(101)]
    assert alphas[0] == 1.0 and alphas[-1] == 0.005
    assert alphas[50] == 0.5
    assert alphas[40] == pytest.approx(1 - 1 / (1 + np.exp(25 * 0.1)))
    assert all(one >= other for one, other in pairwise(alphas))
    assert alphas[28] == 1.0 and alphas[30] < 0.995  # sigmoid(25 * 0.22) = 0.9959


def test_the_curriculum_runs_in_its_share_of_training() -> None:
    head = make("alpha", curriculum_start=0.2, curriculum_end=0.6)

    def alpha(progress: float) -> float:
        (value,) = head.draw_at(progress, N, torch.Generator()).objective.unique().tolist()
        return value

    assert alpha(0.0) == alpha(0.2) == 1.0
    assert alpha(0.4) == pytest.approx(0.5)
    assert alpha(0.35) == pytest.approx(Alpha().alpha((0.35 - 0.2) / 0.4))
    assert alpha(0.6) == alpha(1.0) == pytest.approx(0.005)
    assert torch.equal(head.draw(N, torch.Generator()).objective, head.draw_at(1.0, N, torch.Generator()).objective)


def test_the_curriculum_changes_no_random_number() -> None:
    head = make("alpha")
    early, late = (head.draw_at(progress, N, torch.Generator().manual_seed(0)) for progress in (0.0, 1.0))
    for one, other in zip(early[:2], late[:2], strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(early.objective, late.objective)


ALPHA = ("head.two_time=true", "head.objective=alpha", "head.backbone.time_features=4", "trainer.steps=10")


def alpha_of(agent: Agent) -> float:
    draws = agent.draw(4)["policy"]
    return getattr(draws, "head", draws).objective[0].item()


@pytest.mark.parametrize("algorithm", ["meanflow_ql", "bc"])
def test_an_agent_follows_the_curriculum_and_resumes_it_bit_for_bit(algorithm: str) -> None:
    agent, resumed = small_agent(algorithm, *ALPHA), small_agent(algorithm, *ALPHA, seed=7)
    for step in range(5):
        if step == 3:
            resumed.load_state_dict({name: value.clone() for name, value in agent.state_dict().items()})
        agent.update(raw_batch(seed=step))
    for step in (3, 4):
        resumed.update(raw_batch(seed=step))
    for name, value in agent.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert alpha_of(agent) == alpha_of(resumed) == pytest.approx(0.5)  # half of the 10 steps are done
    assert alpha_of(small_agent(algorithm, *ALPHA)) == 1.0


def test_the_stage_of_the_curriculum_counts_in_updates_and_in_validation() -> None:
    early, late = (small_agent("bc", *ALPHA) for _ in range(2))
    late.step = 10
    for evaluate in ("evaluate_losses", "update"):
        losses = [getattr(agent, evaluate)(raw_batch())["policy/bc_loss"] for agent in (early, late)]
        assert (losses[0] - losses[1]).abs() > 1e-6


# One's own, and what is refused


def test_an_objective_of_ones_own_is_a_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OBJECTIVES, "_entries", dict(OBJECTIVES._entries))

    @OBJECTIVES.register("flow_matching")
    class FlowMatching(Objective):
        """Regress on the velocity."""

        needs_two_times = False

        def regression(self, field: Field, at: Interval, draw: Tensor | tuple[()]) -> Regression:
            g = field.output(at.x_t, at.r, at.t)
            return Regression(g, field.reformulation.output(at.velocity, at.x_t, at.noise, at.t))

    config = MeanFlowConfig(backbone=CURVED, objective="flow_matching", reformulation="average_velocity")
    head = MeanFlowHead(config, feature_dim=3, action_dim=2)
    features, action, noise, t = torch.randn(N, 3), torch.randn(N, 2), torch.randn(N, 2), torch.rand(N, 1)
    torch.testing.assert_close(head.terms(features, action, noise, t).target, noise - action)


@pytest.mark.parametrize("objective", NEW)
def test_objectives_over_intervals_need_two_times(objective: str) -> None:
    with pytest.raises(ConfigError, match=rf"'{objective}'.*Set two_time=true or objective=meanflow"):
        MeanFlowConfig(objective=objective)
    with pytest.raises(ConfigError, match=rf"head\.objective is '{objective}'"):
        small_agent("bc", f"head.objective={objective}")


def test_split_without_rows_that_see_the_data_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"instant_share is 0.*'split'.*instant_share=0\.5"):
        MeanFlowConfig(objective="split", two_time=True, instant_share=0.0)
    MeanFlowConfig(objective="alpha", two_time=True, instant_share=0.0)


def test_an_unknown_objective_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"Unknown objective 'splitt'. Did you mean 'split'\?.*alpha, improved"):
        MeanFlowConfig(objective="splitt")


@pytest.mark.parametrize("objective", ["split", "alpha"])
def test_an_objective_without_its_number_says_so(objective: str) -> None:
    features, action, draws = inputs("meanflow")
    with pytest.raises(ConfigError, match=f"'{objective}' needs"):
        make(objective).terms(features, action, draws.noise, draws.t, draws.r)


def test_a_curriculum_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"curriculum_start is 0\.8, after curriculum_end \(0\.5\)"):
        MeanFlowConfig(curriculum_start=0.8, curriculum_end=0.5)


def test_a_curriculum_without_length_is_a_switch() -> None:
    head = make("alpha", curriculum_start=0.5, curriculum_end=0.5)
    assert head.draw_at(0.5, 1, torch.Generator()).objective.item() == 1.0
    assert head.draw_at(0.51, 1, torch.Generator()).objective.item() == pytest.approx(0.005)


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES.names())
def test_the_update_compiles_as_one_region(objective: str, caplog: pytest.LogCaptureFixture) -> None:
    """Once, though alpha changes with every step."""
    torch.set_default_dtype(torch.float32)
    options = ("head.two_time=true", f"head.objective={objective}", "head.sampling_steps=2", "trainer.steps=4")
    options += ("head.action_transform=softsign", "head.noise_share=0.1", "head.consistency_weight=0.1")
    eager, compiled = (small_agent("meanflow_ql", *options) for _ in range(2))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled.accelerate()
    for step in range(3):
        expected, found = (agent.update(raw_batch(seed=step)) for agent in (eager, compiled))
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)
    assert "could not be compiled" not in caplog.text
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
