"""Every reformulation, and one made up here: derivative, target and action follow from its phi."""

import pytest
import torch
from torch import Tensor

from genpolicy.heads import paths
from genpolicy.heads.reformulations import REFORMULATIONS, Reformulation
from tests.heads import oracle


class Curved(Reformulation):
    """phi = t^2 x_t + 3 noise: nothing vanishes by accident."""

    def phi(self, x_t: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return t**2 * x_t + 3 * noise

    def phi_dot(self, x_t: Tensor, noise: Tensor, t: Tensor, velocity: Tensor) -> Tensor:
        return 2 * t * x_t + t**2 * velocity


FORMS = [pytest.param(entry.cls(), id=entry.name) for entry in REFORMULATIONS.entries()]
FORMS.append(pytest.param(Curved(), id="curved"))


@pytest.mark.parametrize("form", FORMS)
def test_phi_dot_is_the_derivative_of_phi_along_the_path(form: Reformulation) -> None:
    action, noise, t, h = torch.randn(5, 2), torch.randn(5, 2), torch.rand(5, 1), 1e-5

    def phi(time: Tensor) -> Tensor:
        return form.phi(paths.interpolate(action, noise, time), noise, time)

    x_t, velocity = paths.interpolate(action, noise, t), paths.velocity(action, noise)
    difference = (phi(t + h) - phi(t - h)) / (2 * h)
    # central differences with h = 1e-5: rounding of about 1e-16 / 1e-5
    torch.testing.assert_close(form.phi_dot(x_t, noise, t, velocity), difference, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_target_of_the_exact_average_velocity_is_the_output_that_stands_for_it(form: Reformulation) -> None:
    x, t = torch.randn(50, 2), 0.05 + 0.95 * torch.rand(50, 1)
    action, noise = oracle.pair_moving_with_the_flow(x, t)
    velocity = paths.velocity(action, noise)

    def output(x_t: Tensor, time: Tensor) -> Tensor:
        return form.output(oracle.avg_velocity(x_t, time), x_t, noise, time)

    g, dg_dt = torch.func.jvp(output, (x, t), (velocity, torch.ones_like(t)))
    torch.testing.assert_close(form.target(x, noise, t, velocity, dg_dt), g, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(form.avg_velocity(g, x, noise, t), oracle.avg_velocity(x, t))


@pytest.mark.parametrize("form", FORMS)
def test_action_is_the_noise_minus_the_average_velocity(form: Reformulation) -> None:
    noise, t = torch.randn(5, 2), torch.ones(5, 1)
    u = oracle.avg_velocity(noise, t)
    g = form.output(u, noise, noise, t)
    torch.testing.assert_close(form.action(g, noise, t), noise - u)


@pytest.mark.parametrize("form", FORMS)
def test_output_and_average_velocity_are_inverses(form: Reformulation) -> None:
    g, x_t, noise, t = torch.randn(5, 2), torch.randn(5, 2), torch.randn(5, 2), torch.rand(5, 1)
    u = form.avg_velocity(g, x_t, noise, t)
    torch.testing.assert_close(form.output(u, x_t, noise, t), g)


@pytest.mark.parametrize("form", FORMS)
def test_target_is_the_identity_of_the_interval_in_terms_of_the_output(form: Reformulation) -> None:
    """u = v - (t - r) du/dt, where du/dt is the derivative of the average velocity that g stands for."""
    x_t, noise, velocity, direction, g, dg_dt = (torch.randn(5, 2) for _ in range(6))
    t = torch.rand(5, 1)
    r = t * torch.rand(5, 1)
    for along in (velocity, direction):
        _, du_dt = torch.func.jvp(
            lambda x, time, output: form.avg_velocity(output, x, noise, time),
            (x_t, t, g),
            (along, torch.ones_like(t), dg_dt),
        )
        expected = form.output(velocity - (t - r) * du_dt, x_t, noise, t)
        found = form.target(x_t, noise, t, velocity, dg_dt, r=r, direction=along)
        torch.testing.assert_close(found, expected)
    default = form.target(x_t, noise, t, velocity, dg_dt)
    torch.testing.assert_close(default, form.target(x_t, noise, t, velocity, dg_dt, r=0 * t, direction=velocity))


TARGETS = {
    "residual": lambda x_t, noise, v, t: x_t + (t - 1) * v,
    "average_velocity": lambda x_t, noise, v, t: v,
    "time": lambda x_t, noise, v, t: 2 * t - v,
    "noise": lambda x_t, noise, v, t: noise - v,
    "scaled_noise": lambda x_t, noise, v, t: 2 * t * noise - v,
    "double_residual": lambda x_t, noise, v, t: 2 * x_t + 2 * t * v - v,
    "constant": lambda x_t, noise, v, t: 2 - v,
}
ACTIONS = {
    "residual": lambda g, noise: g,
    "average_velocity": lambda g, noise: noise - g,
    "time": lambda g, noise: noise - 1 + g,
    "noise": lambda g, noise: g,
    "scaled_noise": lambda g, noise: g,
    "double_residual": lambda g, noise: g - noise,
    "constant": lambda g, noise: noise - 2 + g,
}


@pytest.mark.parametrize("name", TARGETS)
def test_target_and_action_are_those_of_the_docstring(name: str) -> None:
    form = REFORMULATIONS[name].cls()
    x_t, noise, v, dg_dt, g = (torch.randn(5, 2) for _ in range(5))
    t = torch.rand(5, 1)
    torch.testing.assert_close(form.target(x_t, noise, t, v, dg_dt), TARGETS[name](x_t, noise, v, t) - t * dg_dt)
    torch.testing.assert_close(form.action(g, noise, torch.ones(5, 1)), ACTIONS[name](g, noise))
