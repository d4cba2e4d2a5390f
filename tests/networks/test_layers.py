import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from genpolicy.networks.embeddings import SinusoidalTime
from genpolicy.networks.layers import GELU, RMSNorm, join, jvp, linear
from tests.helpers import randomise


def test_linear_starts_at_xavier_uniform_times_scale_and_zero_bias() -> None:
    torch.manual_seed(0)
    layer = linear(40, 60, scale=0.5)
    bound = 0.5 * math.sqrt(6 / (40 + 60))
    assert 0.95 * bound < layer.weight.abs().max() <= bound
    assert float(layer.weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert not layer.bias.any()


@pytest.mark.parametrize("batch", [(5,), (2, 5), ()])
def test_linear_and_its_derivatives_are_those_of_torch(batch: tuple[int, ...]) -> None:
    ours, theirs = randomise(linear(3, 4)), nn.Linear(3, 4)
    theirs.load_state_dict(ours.state_dict())
    results = []
    for layer in (ours, theirs):
        x = torch.linspace(-1, 1, 3).expand(*batch, 3).clone().requires_grad_()
        derivative = jvp if layer is ours else torch.func.jvp
        output, tangent = derivative(layer, (x,), (torch.ones_like(x) + x.detach() ** 2,))
        (output.square().sum() + tangent.pow(3).sum()).backward()
        foreign = torch.func.jvp(layer, (x,), (torch.ones_like(x),))[1]
        results.append([output, tangent, layer.weight.grad, layer.bias.grad, x.grad, layer(x), foreign])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_a_derivative_costs_two_products() -> None:
    layer, x = linear(3, 4), torch.ones(5, 3)
    counted = []
    for derivative in (jvp, torch.func.jvp):
        with FlopCounterMode(display=False) as counter:
            derivative(layer, (x,), (x,))
        counted.append(counter.get_total_flops() / (2 * 5 * 3 * 4))
    assert counted == [2, 3]


def test_gelu_for_the_compiler_is_the_same_function_however_large_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.linspace(-300, 300, 60_001, dtype=torch.float64)
    x = torch.cat([x, x / 100])
    results = []
    for compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda compiling=compiling: compiling)
        results.append(torch.func.jvp(GELU(), (x,), (torch.ones_like(x),)))
    (expected, slope), (found, compiled_slope) = results
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(compiled_slope, slope, rtol=1e-12, atol=1e-13)


def test_join_concatenates_broadcasts_and_leaves_out_none() -> None:
    features, t = torch.randn(5, 4, 3), torch.randn(1, 1, 2)
    joined = join(features, None, t)
    assert joined.shape == (5, 4, 5)
    torch.testing.assert_close(joined[..., :3], features)
    torch.testing.assert_close(joined[..., 3:], t.expand(5, 4, 2))


def test_rms_norm_multiplies_by_the_root_of_the_width() -> None:
    norm = RMSNorm(4)
    norm.gain.data = torch.tensor([1.0, 2.0, -1.0, 0.5])
    x = np.array([[1.0, -2.0, 3.0, 0.5], [0.0, 0.0, 1e-3, 0.0]])
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * 2.0 * norm.gain.detach().numpy()
    torch.testing.assert_close(norm(torch.from_numpy(x)), torch.from_numpy(expected))


def test_time_features_are_cosines_then_sines_of_the_unscaled_time() -> None:
    t = torch.tensor([[0.0], [0.3], [1.0]])
    features = SinusoidalTime(6)(t)
    frequencies = [10_000 ** (-k / 3) for k in range(3)]
    for row, time in enumerate(t.flatten().tolist()):
        expected = [math.cos(time * f) for f in frequencies] + [math.sin(time * f) for f in frequencies]
        # the frequencies are stored in float32
        torch.testing.assert_close(features[row], torch.tensor(expected), atol=1e-7, rtol=0)


def test_time_features_change_slowly_so_that_the_time_derivative_stays_small() -> None:
    _, derivative = torch.func.jvp(SinusoidalTime(32), (torch.rand(50, 1),), (torch.ones(50, 1),))
    assert derivative.abs().max() <= 1.0
