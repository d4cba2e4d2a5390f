"""Conformance of generative heads."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from genpolicy.heads.base import GenerativeHead, HeadLoss
from genpolicy.heads.protocols import HasCurriculum, HasLogProb, HasLossWithSample
from genpolicy.policies.base import draw_for_head
from genpolicy.testing.common import (
    ACTIONS,
    FEATURES,
    ROWS,
    build,
    check_compile,
    check_gradients,
    check_pure,
    check_round_trip,
    check_vmap,
    generator,
    normal,
    randomise,
    require,
    require_close,
    require_metrics,
    require_shape,
    rows,
    run,
    to,
    uniform,
)

MODES = 0.6
"""The two-mode test: actions near (0.6, 0.6) and (-0.6, -0.6)."""


def check_head(
    factory: Callable[..., GenerativeHead],
    *,
    training_steps: int = 1000,
    learning_rate: float = 2e-3,
) -> None:
    """Check that a head keeps what `GenerativeHead` promises.

    Shapes and types; pure functions of parameters and arguments; every row by itself; a gradient for every trainable
    parameter, and from samples to their noise; state round trip; float64; `torch.func.vmap` and `torch.compile`;
    the optional protocols of `genpolicy.heads.protocols`, where the head has them; and that it learns two modes unless
    its class declares ``unimodal = True``.

    Args:
        factory: makes the head from ``feature_dim=`` and ``action_dim=``; give it a small network.
        training_steps: updates of batch 256 in which the head must learn two modes.
        learning_rate: of these updates, by Adam.

    Raises:
        AssertionError: what was promised, and what happened.

    Example:
        >>> check_head(lambda **sizes: MyHead(MyHeadConfig(), **sizes))
    """
    made = build(factory, feature_dim=FEATURES, action_dim=ACTIONS)
    checks = _HeadChecks(factory, training_steps, learning_rate)
    run(
        f"The head {type(made).__name__}",
        [
            checks.shapes,
            checks.purity,
            checks.rows_alone,
            checks.batch_axes,
            checks.parameters_learn,
            checks.noise_matters,
            checks.noise_law,
            checks.round_trip,
            checks.double_precision,
            checks.vmap,
            checks.compile,
            checks.curriculum,
            checks.log_prob,
            checks.loss_with_sample,
            checks.two_modes,
        ],
    )


LAW_ROWS = 2000
"""Rows of noise whose moments are compared with its law."""


class _HeadChecks:
    def __init__(self, factory: Callable[..., GenerativeHead], training_steps: int, learning_rate: float):
        self.factory, self.training_steps, self.learning_rate = factory, training_steps, learning_rate
        self.features, self.action = normal(ROWS, FEATURES), 0.9 * uniform(ROWS, ACTIONS)

    def make(self, seed: int = 1) -> GenerativeHead:
        return randomise(build(self.factory, feature_dim=FEATURES, action_dim=ACTIONS), seed)

    def draws(self, head: GenerativeHead, n: int = ROWS) -> Any:
        return head.draw(n, generator(3))

    def noise(self, head: GenerativeHead, n: int = ROWS) -> Tensor:
        return head.noise(n, generator(4))

    def stochastic(self, head: GenerativeHead) -> bool:
        return type(head).stochastic(head.config)

    def shapes(self) -> None:
        """loss gives HeadLoss with per_sample and fit (B,), sample gives (B, A), noise gives (n, *noise_shape)"""
        head = self.make()
        require(isinstance(head, GenerativeHead), f"{type(head).__name__} does not derive from GenerativeHead.")
        require((head.feature_dim, head.action_dim) == (FEATURES, ACTIONS), "feature_dim and action_dim are not kept.")
        require(isinstance(head.steps, int) and head.steps >= 1, f"steps is {head.steps!r}, not a count.")
        draws, noise = self.draws(head), self.noise(head)
        for leaf in pytree.tree_leaves(draws):
            require(isinstance(leaf, Tensor), f"draw returned a {type(leaf).__name__} among the tensors.")
            require(leaf.shape[:1] == (ROWS,), f"a drawn tensor has shape {tuple(leaf.shape)}, not one row per action.")
        require_shape("noise", noise, (ROWS, *head.noise_shape), torch.float32)
        loss = head.loss(self.features, self.action, draws)
        require(isinstance(loss, HeadLoss), f"loss returned a {type(loss).__name__}, not a HeadLoss.")
        require_shape("loss.per_sample", loss.per_sample, (ROWS,), torch.float32)
        require_shape("loss.fit", loss.fit, (ROWS,), torch.float32)
        require_metrics(loss.metrics)
        require_shape("sample", head.sample(self.features, noise), (ROWS, ACTIONS), torch.float32)

    def purity(self) -> None:
        """draw, noise, loss and sample are functions of their arguments alone"""
        head = self.make()
        draws, noise = self.draws(head), self.noise(head)
        require_close("draws of one seed", self.draws(head), draws, 0.0)
        require_close("noise of one seed", self.noise(head), noise, 0.0)
        check_pure(head, lambda: head.loss(self.features, self.action, draws).per_sample)
        check_pure(head, lambda: head.sample(self.features, noise))

    def rows_alone(self) -> None:
        """the loss and the sample of a row do not depend on the other rows"""
        head = self.make().double()
        features, action = to((self.features, self.action), torch.float64)
        draws, noise = to((self.draws(head), self.noise(head)), torch.float64)
        together, sampled = head.loss(features, action, draws).per_sample, head.sample(features, noise)
        for i in range(ROWS):
            row = slice(i, i + 1)
            alone = head.loss(features[row], action[row], rows(draws, row)).per_sample
            require_close(f"row {i} of the loss, in the batch and alone", together[row], alone, 1e-9)
            one = head.sample(features[row], noise[row])
            require_close(f"row {i} of the sample, in the batch and alone", sampled[row], one, 1e-9)

    def batch_axes(self) -> None:
        """sample takes any number of batch axes, here (N, B)"""
        head = self.make().double()
        features = self.features.double().expand(3, ROWS, FEATURES)
        flat = self.noise(head, 3 * ROWS).double()
        shaped = head.sample(features, flat.reshape(3, ROWS, *head.noise_shape))
        require_shape("sample", shaped, (3, ROWS, ACTIONS), torch.float64)
        require_close(
            "(N, B) and N * B rows",
            shaped.reshape(3 * ROWS, ACTIONS),
            head.sample(features.reshape(-1, FEATURES), flat),
            1e-9,
        )

    def parameters_learn(self) -> None:
        """every trainable parameter gets a finite gradient from loss or sample"""
        head = self.make()
        loss = head.loss(self.features, self.action, self.draws(head)).per_sample
        require(loss.requires_grad, "per_sample carries no gradient.")
        check_gradients(head, [loss, head.sample(self.features, self.noise(head))])

    def noise_matters(self) -> None:
        """samples differ with the noise, differentiably, unless the class says stochastic = False"""
        head = self.make()
        noise = self.noise(head).requires_grad_()
        sampled = head.sample(self.features, noise)
        other = head.sample(self.features, head.noise(ROWS, generator(5)))
        if not self.stochastic(head):
            require(torch.equal(sampled, other), "stochastic() is False, but samples differ with the noise.")
            return
        require(not torch.equal(sampled, other), "other noise gives the same actions; let stochastic() return False.")
        if head.pathwise:
            (gradient,) = torch.autograd.grad(sampled.square().sum(), noise, allow_unused=True)
            require(gradient is not None and gradient.any(), "no gradient flows from the sample to its noise.")
            require(gradient.isfinite().all(), "the gradient of the sample in its noise is NaN or infinite.")

    def noise_law(self) -> None:
        """noise_law tells what noise draws"""
        head = self.make()
        law, scale = head.noise_law
        numbers = self.noise(head, LAW_ROWS).flatten().double() / scale
        n, (variance, tail) = len(numbers), {"normal": (1.0, 3.0), "uniform": (1 / 3, 9 / 5)}[law]
        # Mean, second and fourth moment lie within 6 standard deviations of theirs.
        for power, expected, spread in (
            (1, 0.0, variance),
            (2, variance, (tail - 1) * variance**2),
            (4, tail * variance**2, {"normal": 96.0, "uniform": 16 / 225}[law]),
        ):
            found = numbers.pow(power).mean().item()
            require(
                abs(found - expected) < 6 * (spread / n) ** 0.5,
                f"noise_law is ({law!r}, {scale}), but the mean of (noise / {scale})^{power} is {found:.3g}, "
                f"not {expected:.3g}; let noise_law say what noise draws.",
            )

    def round_trip(self) -> None:
        """state_dict holds all that loss and sample depend on"""
        head = self.make()
        draws, noise = self.draws(head), self.noise(head)
        check_round_trip(
            head,
            self.make(seed=2),
            lambda one: (one.loss(self.features, self.action, draws).per_sample, one.sample(self.features, noise)),
        )

    def double_precision(self) -> None:
        """float64 parameters and arguments give float64 results that agree with float32"""
        head = self.make()
        draws, noise = self.draws(head), self.noise(head)
        loss, sampled = head.loss(self.features, self.action, draws).per_sample, head.sample(self.features, noise)
        head = head.double()
        features, action, draws, noise = to((self.features, self.action, draws, noise), torch.float64)
        loss64, sampled64 = head.loss(features, action, draws).per_sample, head.sample(features, noise)
        require_shape("loss.per_sample", loss64, (ROWS,), torch.float64)
        require_shape("sample", sampled64, (ROWS, ACTIONS), torch.float64)
        require_close("loss in float32 and float64", loss.double(), loss64, 1e-3)
        require_close("sample in float32 and float64", sampled.double(), sampled64, 1e-3)

    def vmap(self) -> None:
        """loss and sample run under torch.func.vmap and grad, many parameter sets at once"""
        head = self.make()
        draws, noise = self.draws(head), self.noise(head)
        check_vmap(
            self.make,
            lambda one, features, action: (
                one.loss(features, action, draws).per_sample.mean() + one.sample(features, noise).square().mean()
            ),
            (self.features, self.action),
        )

    def compile(self) -> None:
        """loss and sample compile into one graph without breaks"""
        head = self.make()
        draws, noise = self.draws(head), self.noise(head)
        check_compile(
            head,
            lambda one, features, action: (
                one.loss(features, action, draws).per_sample,
                one.sample(features, noise),
            ),
            (self.features, self.action),
        )

    def curriculum(self) -> None:
        """a head with draw_at draws for every share of training what its loss takes"""
        head = self.make()
        if isinstance(head, HasCurriculum):
            for progress in (0.0, 0.3, 1.0):
                draws = head.draw_at(progress, ROWS, generator(3))
                loss = head.loss(self.features, self.action, draws).per_sample
                require_shape(f"the loss at progress {progress}", loss, (ROWS,), torch.float32)

    def log_prob(self) -> None:
        """sample_with_log_prob gives what sample gives and the density that log_prob gives there"""
        head = self.make().double()
        if not isinstance(head, HasLogProb):
            return
        features, noise = self.features.double(), self.noise(head).double()
        action, log_prob = head.sample_with_log_prob(features, noise)
        require_close("the actions of sample and sample_with_log_prob", action, head.sample(features, noise), 1e-9)
        require_shape("log_prob", log_prob, (ROWS,), torch.float64)
        require_close("both log densities", head.log_prob(features, action), log_prob, 1e-4)

    def loss_with_sample(self) -> None:
        """loss_with_sample gives what loss gives, and actions with a gradient"""
        head = self.make()
        if not isinstance(head, HasLossWithSample):
            return
        draws = self.draws(head)
        loss, action = head.loss_with_sample(self.features, self.action, draws)
        wanted = head.loss(self.features, self.action, draws).per_sample
        require_close("the losses of loss and loss_with_sample", loss.per_sample, wanted, 1e-6)
        require_shape("the actions of loss_with_sample", action, (ROWS, ACTIONS), torch.float32)
        require(
            action.requires_grad, "the actions of loss_with_sample have no gradient, so no policy can improve them."
        )

    def two_modes(self) -> None:
        """the head learns an action law with two modes, unless its class says unimodal = True"""
        head = build(self.factory, feature_dim=FEATURES, action_dim=ACTIONS)
        if head.unimodal or not self.stochastic(head):
            return
        source = generator(6)
        optimizer = torch.optim.Adam(head.parameters(), self.learning_rate)
        for step in range(self.training_steps):
            features, action = two_mode_batch(256, source)
            draws = draw_for_head(head, 256, source, step / self.training_steps)
            optimizer.zero_grad()
            head.loss(features, action, draws).per_sample.mean().backward()
            optimizer.step()
        with torch.no_grad():
            features, _ = two_mode_batch(1000, source)
            action = head.sample(features, head.noise(1000, source))
        shares = [((action - mode).abs() < 0.3).all(dim=-1).float().mean().item() for mode in (MODES, -MODES)]
        # Half the data lies at each mode; a law with one mode puts less than a tenth at one of them.
        require(
            min(shares) > 0.25,
            f"after {self.training_steps} updates, {shares[0]:.0%} and {shares[1]:.0%} of 1000 samples lie near the "
            "two modes that hold half the data each. Declare `unimodal = True` if the head cannot, or raise "
            "training_steps or learning_rate of check_head if it needs longer.",
        )


def two_mode_batch(n: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Features without meaning, and actions around two opposite points with deviation 0.1."""
    side = torch.randint(2, (n, 1), generator=source) * 2 - 1
    action = MODES * side + 0.1 * torch.randn(n, ACTIONS, generator=source)
    return torch.randn(n, FEATURES, generator=source), action
