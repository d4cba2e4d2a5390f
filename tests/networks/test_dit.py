import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from genpolicy.networks.dit import Block, DiT, DiTConfig
from genpolicy.networks.embeddings import SinusoidalTime
from tests.helpers import randomise

WIDTH, HEADS = 8, 2


def rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * WIDTH**0.5 * gain


def attention(h: Tensor, block: Block, query: nn.Linear, key: nn.Linear) -> Tensor:
    """Multi-head softmax attention on (B, tokens, width), written out."""

    def split(x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], HEADS, WIDTH // HEADS).transpose(1, 2)

    q, k, v = split(query(h)), split(key(h)), split(block.value(h))
    weights = torch.softmax(q @ k.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5, dim=-1)
    return block.attention_out((weights @ v).transpose(1, 2).reshape(h.shape))


def transformer_block(block: Block, x: Tensor, condition: Tensor, query: nn.Linear, key: nn.Linear) -> Tensor:
    """One block of the reference on tokens (B, 1, width) with a condition (B, width)."""
    modulation = functional.linear(functional.silu(condition), block.modulation.weight, block.modulation.bias)
    shift1, scale1, gate1, shift2, scale2, gate2 = modulation[:, None].split(WIDTH, dim=-1)
    h = rms_norm(x, block.attention_norm.gain) * (1 + scale1) + shift1
    y = x + gate1 * attention(h, block, query, key)
    h = rms_norm(y, block.mlp_norm.gain) * (1 + scale2) + shift2
    first, _, second = block.mlp
    y = y + gate2 * second(functional.gelu(first(h), approximate="tanh"))
    return x + 0.1 * (y - x)


def plain_transformer(network: DiT, features: Tensor, x: Tensor, *times: Tensor) -> Tensor:
    columns = times if network.times_in_token else ()
    token = network.embed(torch.cat([features, x, *columns], -1)) + network.position
    condition = torch.zeros_like(token)
    for embedder, t in zip(network.times, times, strict=True):
        first, _, second = embedder.layers
        condition = condition + second(functional.silu(first(SinusoidalTime(6)(t))))
    token = token[:, None]
    for index, block in enumerate(network.blocks):
        query, key = (randomise(nn.Linear(WIDTH, WIDTH), seed=10 * index + place) for place in (1, 2))
        token = transformer_block(block, token, condition, query, key)
    shift, scale = network.final_modulation(functional.silu(condition)).split(WIDTH, dim=-1)
    return network.final(rms_norm(token[:, 0], network.final_norm.gain) * (1 + scale) + shift)


def make(num_times: int = 1, **options: object) -> DiT:
    config = DiTConfig(width=WIDTH, depth=3, time_features=6, **options)
    return DiT(config, feature_dim=3, input_dim=2, num_times=num_times, output_dim=2)


def inputs(num_times: int) -> list[Tensor]:
    return [torch.randn(5, 3), torch.randn(5, 2), *(torch.rand(5, 1) for _ in range(num_times))]


@pytest.mark.parametrize("num_times", [1, 2])
@pytest.mark.parametrize("time_in_token", [False, True])
def test_output_equals_a_transformer_with_explicit_attention_on_one_token(num_times: int, time_in_token: bool) -> None:
    network, given = randomise(make(num_times, time_in_token=time_in_token)), inputs(num_times)
    assert network.embed.in_features == 3 + 2 + num_times * time_in_token
    torch.testing.assert_close(network(*given), plain_transformer(network, *given))


def test_output_norm_is_a_layer_norm_on_the_output() -> None:
    network, given = randomise(make(output_norm=True)), inputs(1)
    plain = functional.layer_norm(plain_transformer(network, *given), (2,), eps=1e-5)
    expected = plain * network.output_norm.weight + network.output_norm.bias
    torch.testing.assert_close(network(*given), expected)


def test_the_first_output_is_zero_and_modulations_start_at_zero() -> None:
    network = make()
    assert not network(*inputs(1)).any()
    assert not any(block.modulation.weight.any() for block in network.blocks)
    assert not network.final_modulation.weight.any()
