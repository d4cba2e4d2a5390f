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


def output_for(form: Reformulation, u: Tensor, x_t: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The network's output g that stands for the average velocity u, which is g times +1 or -1 plus an offset."""
    offset = form.avg_velocity(torch.zeros_like(u), x_t, noise, t)
    sign = form.avg_velocity(torch.ones_like(u), x_t, noise, t) - offset
    return sign * (u - offset)


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
        return output_for(form, oracle.avg_velocity(x_t, time), x_t, noise, time)

    g, dg_dt = torch.func.jvp(output, (x, t), (velocity, torch.ones_like(t)))
    torch.testing.assert_close(form.target(x, noise, t, velocity, dg_dt), g, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(form.avg_velocity(g, x, noise, t), oracle.avg_velocity(x, t))


@pytest.mark.parametrize("form", FORMS)
def test_action_is_the_noise_minus_the_average_velocity(form: Reformulation) -> None:
    noise, t = torch.randn(5, 2), torch.ones(5, 1)
    u = oracle.avg_velocity(noise, t)
    g = output_for(form, u, noise, noise, t)
    torch.testing.assert_close(form.action(g, noise, t), noise - u)


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
