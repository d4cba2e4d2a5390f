import numpy as np
import pytest
import torch

from genpolicy.errors import ConfigError
from genpolicy.policies import BCScheduleConfig, QGradient, QGradientConfig
from genpolicy.policies.q_gradient import QGradientDraws
from tests.policies.stubs import A, B, SharingHead, StubCritic, StubHead, make_batch

SLOPES = [[1.0, -0.5], [0.3, 2.0]]
STEP = {"step": torch.tensor(3)}


def make(**options: object) -> QGradient:
    return QGradient(QGradientConfig(**options), head=StubHead(), total_steps=10)


def make_draws() -> QGradientDraws:
    return QGradientDraws(torch.randn(B, A), torch.randn(B, A))


@pytest.mark.parametrize("normalize_q", [True, False])
@pytest.mark.parametrize("q_agg", ["mean", "min"])
def test_loss_equals_a_numpy_derivation(normalize_q: bool, q_agg: str) -> None:
    policy = make(normalize_q=normalize_q, q_agg=q_agg, bc_weight=0.7, bound_weight=0.4)
    batch, draws = make_batch(), make_draws()
    found = policy.loss(batch, StubCritic(SLOPES), draws, STEP)

    features, actions = batch.features.numpy(), batch.actions.numpy()
    sampled = 1.5 * draws.noise.numpy() + features[:, :A]
    bound = np.maximum(sampled - 1, 0).mean() + np.maximum(-1 - sampled, 0).mean()
    assert (sampled > 1).any() and (sampled < -1).any()
    qs = np.clip(sampled, -1, 1) @ np.array(SLOPES).T + 0.1 * features.sum(-1, keepdims=True)
    q = qs.mean(-1) if q_agg == "mean" else qs.min(-1)
    q_loss = -q.mean() / (np.abs(q).mean() if normalize_q else 1)
    bc = (((actions - 1.5 * draws.head.numpy()) ** 2).sum(-1) + 1).mean()
    expected = {
        "loss": q_loss + 0.4 * bound + 0.7 * bc,
        "q_loss": q_loss,
        "bound_loss": bound,
        "bc_loss": bc,
        "bc_weight": 0.7,
        "q": q.mean(),
        "head/error": bc - 1,
    }
    torch.testing.assert_close(found.loss, torch.tensor(expected["loss"]))
    assert found.metrics.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found.metrics[name], torch.tensor(value))
        assert not found.metrics[name].requires_grad
    assert found.state == {}


def gradient(batch, draws: QGradientDraws, **options: object) -> float:
    policy = make(**options)
    policy.loss(batch, StubCritic(SLOPES), draws, STEP).loss.backward()
    return policy.head.gain.grad.item()


@pytest.mark.parametrize("normalize_q", [True, False])
def test_gradient_treats_the_scale_as_a_constant_and_stops_at_clipped_coordinates(normalize_q: bool) -> None:
    batch, draws = make_batch(), make_draws()
    options = {"bc_weight": 0.0, "bound_weight": 0.0, "normalize_q": normalize_q}
    features, noise, slopes = batch.features.numpy(), draws.noise.numpy(), np.array(SLOPES)
    sampled = 1.5 * noise + features[:, :A]
    inside = np.abs(sampled) < 1
    assert inside.any() and not inside.all()
    q = (np.clip(sampled, -1, 1) @ slopes.T).mean(-1) + 0.1 * features.sum(-1)
    expected = -(slopes.mean(0) * noise * inside).sum(-1).mean() / (np.abs(q).mean() if normalize_q else 1)
    assert gradient(batch, draws, **options) == pytest.approx(expected)


def test_gradient_of_the_bound_acts_outside_the_bounds_only() -> None:
    batch, draws = make_batch(), make_draws()
    options = {"bc_weight": 0.0, "normalize_q": False}
    noise = draws.noise.numpy()
    sampled = 1.5 * noise + batch.features.numpy()[:, :A]
    expected = 0.4 * (noise * ((sampled > 1).astype(float) - (sampled < -1))).mean()
    difference = gradient(batch, draws, bound_weight=0.4, **options) - gradient(
        batch, draws, bound_weight=0.0, **options
    )
    assert difference == pytest.approx(expected)


def test_gradient_of_the_fit_is_weighted() -> None:
    batch, draws = make_batch(), make_draws()
    noise = draws.head.numpy()
    expected = 3.0 * (-2 * noise * (batch.actions.numpy() - 1.5 * noise)).sum(-1).mean()
    difference = gradient(batch, draws, bc_weight=3.0) - gradient(batch, draws, bc_weight=0.0)
    assert difference == pytest.approx(expected)


def test_critic_scores_by_its_online_parameters() -> None:
    batch, draws = make_batch(), make_draws()
    other_target = StubCritic(SLOPES, [[9.0, 9.0], [9.0, 9.0]])
    losses = [make().loss(batch, critic, draws, STEP).loss for critic in (StubCritic(SLOPES), other_target)]
    torch.testing.assert_close(*losses)


def test_adaptive_weight_watches_the_fit_and_enters_the_loss() -> None:
    schedule = BCScheduleConfig(kind="adaptive", interval=1, threshold=2.0, warmup_fraction=0.0)
    policy, batch, draws = make(bc_weight=2.0, bc_schedule=schedule), make_batch(), make_draws()
    fit = policy.head.loss(batch.features, batch.actions, draws.head).fit.mean()
    state = policy.initial_state()
    state["bc_history"][-2:], state["bc_count"] = fit.detach() / 2.1, torch.tensor(2)
    found = policy.loss(batch, StubCritic(SLOPES), draws, state | STEP)
    # the fit is 2.1 times the average of the record; the whole loss (fit + 1) would be elsewhere
    assert found.metrics["bc_weight"].item() == pytest.approx(2.4)
    assert found.state["bc_weight"].item() == pytest.approx(2.4)
    assert found.state["bc_history"][-1].item() == pytest.approx(fit.item())
    assert found.state["bc_count"].item() == 3
    plain = make(bc_weight=2.4).loss(batch, StubCritic(SLOPES), draws, STEP)
    torch.testing.assert_close(found.loss, plain.loss)


def test_draw_gives_independent_noise_to_fit_and_improvement(generator: torch.Generator) -> None:
    draws = make().draw(B, generator)
    assert draws.head.shape == draws.noise.shape == (B, A)
    assert not torch.equal(draws.head, draws.noise)


def test_pretraining_is_the_mean_of_the_heads_loss_without_critic_and_weight() -> None:
    policy, batch, draws = make(bc_weight=7.0), make_batch(), make_draws()
    found = policy.pretrain_loss(batch, draws)
    expected = policy.head.loss(batch.features, batch.actions, draws.head).per_sample.mean()
    torch.testing.assert_close(found.loss, expected)
    torch.testing.assert_close(found.metrics["bc_loss"], expected)
    assert found.state == {}


def test_training_without_a_critic_says_what_to_choose() -> None:
    with pytest.raises(
        ConfigError, match=r"QGradient needs a critic, but critic is null.*critic=td.*policy=behaviour_cloning"
    ):
        make().loss(make_batch(), None, make_draws(), STEP)


def test_a_critic_that_is_zero_everywhere_gives_a_finite_loss_and_gradient() -> None:
    policy, batch = make(normalize_q=True), make_batch()
    batch = batch._replace(features=torch.zeros_like(batch.features))
    found = policy.loss(batch, StubCritic([[0.0, 0.0]]), make_draws(), STEP)
    found.loss.backward()
    assert found.metrics["q_loss"] == 0
    assert torch.isfinite(policy.head.gain.grad)


def test_a_head_that_shares_its_noise_is_improved_at_the_action_of_its_own_loss(generator: torch.Generator) -> None:
    policy = QGradient(QGradientConfig(), head=SharingHead(), total_steps=10)
    draws = policy.draw(B, generator)
    assert draws.noise == ()
    batch, critic = make_batch(), StubCritic(SLOPES)
    found = policy.loss(batch, critic, draws, STEP)
    same = make().loss(batch, critic, QGradientDraws(draws.head, draws.head), STEP)
    torch.testing.assert_close(found.loss, same.loss)
    # a noise handed in besides the head's does not replace it
    given = policy.loss(batch, critic, QGradientDraws(draws.head, torch.randn(B, A)), STEP)
    torch.testing.assert_close(found.loss, given.loss)


def test_sharing_draws_no_noise_of_its_own(generator: torch.Generator) -> None:
    policy = QGradient(QGradientConfig(), head=SharingHead(), total_steps=10)
    policy.draw(B, generator)
    again = torch.Generator().manual_seed(generator.initial_seed())
    policy.head.draw(B, again)
    assert torch.equal(generator.get_state(), again.get_state())


@pytest.mark.parametrize("head", [StubHead, SharingHead])
def test_improving_the_mode_takes_the_sample_of_zero_noise(head: type, generator: torch.Generator) -> None:
    batch, critic = make_batch(), StubCritic(SLOPES)
    policy = QGradient(QGradientConfig(improve="mode"), head=head(), total_steps=10)
    draws = policy.draw(B, generator)
    assert draws.noise == ()
    found = policy.loss(batch, critic, draws, STEP)
    expected = make().loss(batch, critic, QGradientDraws(draws.head, torch.zeros(B, A)), STEP)
    torch.testing.assert_close(found.loss, expected.loss)


def test_normalised_with_a_mean_squared_error_it_is_the_loss_of_td3_bc() -> None:
    """arXiv:2106.06860: (pi - a)^2 - lambda Q with lambda = alpha / mean|Q|; ours is that divided by alpha."""
    batch, alpha = make_batch(), 2.5
    draws = QGradientDraws(torch.randn(B, A), ())
    policy = make(improve="mode", bc_weight=1 / alpha, bound_weight=0.0)
    found = policy.loss(batch, StubCritic(SLOPES), draws, STEP).loss
    q = StubCritic(SLOPES).q(batch.features, batch.features[:, :A].clamp(-1, 1)).mean(0)
    fit = policy.head.loss(batch.features, batch.actions, draws.head).per_sample.mean()
    torch.testing.assert_close(alpha * found, fit - alpha / q.abs().mean() * q.mean())
