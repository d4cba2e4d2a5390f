"""Image encoders, and one of them for each network."""

import math

import pytest
import torch
from torch import Tensor, nn

from genpolicy.errors import ConfigError
from genpolicy.networks.encoders import Encoder, ImpalaSmall, ImpalaSmallConfig
from genpolicy.networks.mlp import MLP, MLPConfig
from genpolicy.networks.own_encoders import OwnEncoders
from genpolicy.registry import ENCODERS
from tests.helpers import randomise

TINY = {"stack_sizes": (2, 3), "hidden_dims": (5,)}


def build(name: str = "impala_small", shape: tuple[int, ...] = (8, 6, 2), **options: object) -> Encoder:
    config = ENCODERS[name].config(**TINY | options)
    return randomise(ENCODERS.create(config, observation_shape=shape))


def images(*batch: int, shape: tuple[int, ...] = (8, 6, 2)) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(256, (*batch, *shape), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("name", ENCODERS.names())
@pytest.mark.parametrize("layer_norm", [False, True])
def test_all_batch_axes_are_independent_rows(name: str, layer_norm: bool) -> None:
    encoder, observation = build(name, layer_norm=layer_norm), images(2, 3)
    features = encoder(observation)
    assert features.shape == (2, 3, encoder.feature_dim) == (2, 3, 5)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(features[i, j], encoder(observation[i, j]))


@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 5, 3), (64, 64, 9)])
def test_any_size_of_image(shape: tuple[int, ...]) -> None:
    assert build(shape=shape)(images(2, shape=shape)).shape == (2, 5)


def test_published_sizes() -> None:
    """Widths of seohongpark/fql's networks on stacks of three frames of 64 x 64 pixels."""

    def count(encoder: nn.Module) -> int:
        return sum(parameter.numel() for parameter in encoder.parameters())

    def expected(stacks: tuple[int, ...], blocks: int, hidden: int) -> int:
        convolutions, channels = 0, 9
        for size in stacks:
            convolutions += 9 * channels * size + size + 2 * blocks * (9 * size * size + size)
            channels = size
        return convolutions + 8 * 8 * channels * hidden + hidden

    sizes = {"impala_small": ((16, 32, 32), 1, 512), "impala_large": ((64, 128, 128), 2, 1024)}
    for name, (stacks, blocks, hidden) in sizes.items():
        encoder = ENCODERS.create(ENCODERS[name].config(), observation_shape=(64, 64, 9))
        assert encoder.feature_dim == hidden
        assert count(encoder) == expected(stacks, blocks, hidden)


def test_bytes_and_numbers_are_the_same_image() -> None:
    single, double, observation = build().float(), build().double(), images(4)
    assert torch.equal(single(observation), single(observation.double()))
    assert (single(observation).dtype, double(observation).dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(single(observation).double(), double(observation), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("size", "columns"),
    # Windows of three at every second pixel, padded as Flax's SAME: 2, 4 at the end only; 3, 5 on both sides.
    [(2, [1]), (3, [1, 2]), (4, [2, 3]), (5, [1, 3, 4])],
)
def test_a_stack_halves_the_image_as_flax_does(size: int, columns: list[int]) -> None:
    encoder = ImpalaSmall(
        ImpalaSmallConfig(stack_sizes=(1,), blocks=0, hidden_dims=(1,)), observation_shape=(size, size, 1)
    )
    seen: list[Tensor] = []
    encoder.stacks.register_forward_hook(lambda module, arguments, output: seen.append(output))
    with torch.no_grad():
        (stack,) = encoder.stacks
        stack.conv.weight.zero_()
        stack.conv.weight[0, 0, 1, 1] = 255.0  # the image itself
        observation = torch.arange(size * size).reshape(1, size, size, 1)
        encoder(observation)
    image = observation.reshape(size, size).to(seen[0].dtype)
    torch.testing.assert_close(seen[0].reshape(len(columns), -1), image[columns][:, columns])


def test_features_of_a_hand_made_network() -> None:
    config = ImpalaSmallConfig(stack_sizes=(1,), blocks=1, hidden_dims=(1,))
    encoder = ImpalaSmall(config, observation_shape=(2, 2, 1))
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
        (stack,) = encoder.stacks
        (first, second) = stack.blocks[0]
        for conv, centre in ((stack.conv, -1.0), (first, 1.0), (second, 3.0)):
            conv.weight[0, 0, 1, 1] = centre
        second.bias.fill_(1.5)
        encoder.layers[0].weight.fill_(2.0)
    # The maximum of -pixel is -0.2; the block adds 3 relu(relu(-0.2)) + 1.5 to it; then relu, linear and GELU.
    pixels = torch.tensor([51, 102, 204, 255], dtype=torch.uint8).reshape(1, 2, 2, 1)
    x = 2 * (-0.2 + 1.5)
    gelu = 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    assert encoder(pixels).item() == pytest.approx(gelu, rel=1e-6)


# An encoder for each network


class Pair(nn.Module):
    """A part of two networks, made for features of width 5."""

    def __init__(self) -> None:
        super().__init__()
        config = MLPConfig(hidden_dims=(4,))
        self.inner = nn.ModuleDict(
            {name: MLP(config, feature_dim=5, input_dim=2, num_times=0, output_dim=3) for name in ("a", "b")}
        )


def test_each_network_reads_the_features_of_its_own_encoder() -> None:
    part, action = Pair(), torch.randn(4, 2)
    before = {name: network(torch.ones(4, 5), action) for name, network in part.inner.items()}
    encoders = OwnEncoders(part, None, build, observation_shape=(8, 6, 2))
    randomise(part)
    observation = images(4)
    features = encoders(observation)
    assert features.shape == (4, 10) and not list(encoders.parameters())
    for name, network in part.inner.items():
        own = network.encoder(observation)
        torch.testing.assert_close(network(features, action), MLP.forward(network, own, action))
        other = torch.randn(4, 10)
        section = slice(0, 5) if name == "a" else slice(5, 10)
        other[:, section] = own
        torch.testing.assert_close(network(other, action), network(features, action))
        assert before[name].shape == (4, 3)
    # Candidates of one state: the features are expanded, not encoded again.
    many = torch.randn(7, 4, 2)
    network = part.inner["b"]
    torch.testing.assert_close(
        network(features.expand(7, -1, -1), many),
        MLP.forward(network, network.encoder(observation).expand(7, 4, 5), many),
    )


def test_parts_that_cannot_be_given_encoders_are_refused() -> None:
    with pytest.raises(ConfigError, match="Linear has no Backbone or EnsembleMLP"):
        OwnEncoders(nn.Linear(5, 2), None, build, observation_shape=(8, 6, 2))
    part = Pair()
    part.inner["b"].requires_grad_(False)
    with pytest.raises(ConfigError, match="frozen MLP is neither"):
        OwnEncoders(part, None, build, observation_shape=(8, 6, 2))
