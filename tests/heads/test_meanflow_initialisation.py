"""The first actions of an untrained head: what an output of zero, or a small one, gives."""

import pytest
import torch
from torch import Tensor

from genpolicy.heads.meanflow import MeanFlowConfig, MeanFlowHead
from genpolicy.heads.reformulations import REFORMULATIONS
from genpolicy.networks.dit import DiTConfig
from genpolicy.networks.mlp import MLPConfig
from genpolicy.options import Options

NOISE = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
FIRST = {
    "residual": torch.zeros_like,
    "average_velocity": lambda noise: noise,
    "time": lambda noise: noise - 1,
    "noise": torch.zeros_like,
    "scaled_noise": torch.zeros_like,
    "double_residual": lambda noise: -noise,
    "constant": lambda noise: noise - 2,
}


def backbones(scale: float) -> dict[str, Options]:
    return {
        "dit": DiTConfig(width=8, depth=2, time_features=6, output_init_scale=scale),
        "mlp": MLPConfig(hidden_dims=(8,), output_init_scale=scale),
    }


def first_output(backbone: Options, **options: object) -> Tensor:
    torch.manual_seed(0)
    head = MeanFlowHead(MeanFlowConfig(backbone=backbone, **options), feature_dim=3, action_dim=2)
    return head.sample(torch.ones(5, 3), NOISE).detach()


@pytest.mark.parametrize("backbone", backbones(0.0))
@pytest.mark.parametrize("reformulation", REFORMULATIONS.names())
def test_an_output_of_zero_gives_the_action_of_the_forms_docstring(reformulation: str, backbone: str) -> None:
    found = first_output(backbones(0.0)[backbone], reformulation=reformulation)
    torch.testing.assert_close(found, FIRST[reformulation](NOISE))


@pytest.mark.parametrize("backbone", backbones(0.0))
def test_the_scale_multiplies_the_first_output(backbone: str) -> None:
    one, small = (first_output(backbones(scale)[backbone]) for scale in (1.0, 0.01))
    assert one.abs().amax() > 0.1
    torch.testing.assert_close(small, 0.01 * one)


def test_the_defaults_start_at_zero_with_the_transformer() -> None:
    assert DiTConfig().output_init_scale == 0.0
    assert not first_output(DiTConfig(width=8, depth=1, time_features=6)).any()
