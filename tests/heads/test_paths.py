import torch

from genpolicy.heads import paths


def test_path_starts_at_the_action_and_ends_at_the_noise() -> None:
    action, noise, t = torch.randn(4, 2), torch.randn(4, 2), torch.ones(4, 1)
    torch.testing.assert_close(paths.interpolate(action, noise, paths.T_DATA * t), action)
    torch.testing.assert_close(paths.interpolate(action, noise, paths.T_NOISE * t), noise)
    assert (paths.T_DATA, paths.T_NOISE) == (0.0, 1.0)


def test_finite_difference_of_the_path_equals_the_velocity() -> None:
    action, noise, t, h = torch.randn(4, 2), torch.randn(4, 2), torch.rand(4, 1), 1e-3
    after, before = (paths.interpolate(action, noise, t + sign * h) for sign in (1, -1))
    velocity = paths.velocity(action, noise)
    torch.testing.assert_close((after - before) / (2 * h), velocity)
    torch.testing.assert_close(velocity, noise - action)
