import pytest
import torch
from torch import nn

from genpolicy.networks.ensemble import EnsembleMLP
from tests.helpers import randomise


def member(ensemble: EnsembleMLP, index: int) -> nn.Sequential:
    """A network of torch's own layers with the parameters of one member."""
    layers: list[nn.Module] = []
    for place, linear in enumerate(ensemble.linears):
        _, inputs, outputs = linear.weight.shape
        layer = nn.Linear(inputs, outputs)
        layer.load_state_dict({"weight": linear.weight[index].T, "bias": linear.bias[index, 0]})
        layers.append(layer)
        if place == len(ensemble.linears) - 1:
            break
        layers.append(nn.GELU(approximate="tanh"))
        if ensemble.norms:
            norm = nn.LayerNorm(outputs, eps=1e-6)
            own = ensemble.norms[place]
            norm.load_state_dict({"weight": own.weight[index, 0], "bias": own.bias[index, 0]})
            layers.append(norm)
    return nn.Sequential(*layers)


@pytest.mark.parametrize(("layer_norm", "compiling"), [(False, False), (True, False), (True, True)])
def test_ensemble_equals_separate_networks(layer_norm: bool, compiling: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    ensemble = randomise(EnsembleMLP(3, 4, (6, 5), 2, layer_norm=layer_norm))
    x = torch.randn(7, 4)
    output = ensemble(x)
    assert output.shape == (3, 7, 2)
    for index in range(3):
        torch.testing.assert_close(output[index], member(ensemble, index)(x))


def test_extra_batch_axes_are_rows() -> None:
    ensemble, x = randomise(EnsembleMLP(2, 4, (6,), 1, layer_norm=True)), torch.randn(3, 5, 4)
    output = ensemble(x)
    assert output.shape == (2, 3, 5, 1)
    for index in range(3):
        torch.testing.assert_close(output[:, index], ensemble(x[index]))


def test_members_start_different_and_share_no_gradient() -> None:
    ensemble = EnsembleMLP(2, 4, (6,), 1, layer_norm=True)
    x = torch.randn(5, 4)
    first, second = ensemble(x)
    assert (first - second).abs().max() > 1e-3
    first.square().sum().backward()
    for name, parameter in ensemble.named_parameters():
        assert parameter.grad[0].any(), name
        assert not parameter.grad[1].any(), name


def test_weights_start_at_xavier_uniform_of_one_member() -> None:
    ensemble = EnsembleMLP(4, 50, (70,), 1, layer_norm=False)
    bound = (6 / (50 + 70)) ** 0.5
    assert 0.95 * bound < ensemble.linears[0].weight.abs().max() <= bound
    assert not any(linear.bias.any() for linear in ensemble.linears)
