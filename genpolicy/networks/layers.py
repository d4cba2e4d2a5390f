"""Small pieces that backbones share: initialisation, joining of inputs, the reference's normalisation."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional

LAYER_NORM_EPS = 1e-6
"""Flax's default; torch's own is 1e-5. It belongs to the reference networks."""


_in_jvp = False


def jvp(
    function: Callable[..., Tensor], primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """`torch.func.jvp`, a third cheaper for networks of `Linear` layers.

    Args:
        function: of the primals.
        primals: where.
        tangents: the direction, one tensor for each primal; no parameter of a layer may carry a tangent.

    Returns:
        The function's value and its derivative in that direction.
    """
    global _in_jvp
    before, _in_jvp = _in_jvp, True
    try:
        value, derivative, *_ = torch.func.jvp(function, primals, tangents)
        return value, derivative
    finally:
        _in_jvp = before


class Linear(nn.Linear):
    """A linear layer whose derivative within `jvp` costs one product.

    Its parameters carry no tangent, but torch's rule for the product multiplies by a tangent of zeros all the same:
    a Jacobian-vector product through `torch.nn.Linear` costs three products instead of two.
    """

    def forward(self, input: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """Apply the layer to a tensor, or to a dual number of forward-mode differentiation."""
        if not _in_jvp:  # also since `vmap` cannot compile the question whether an input is dual
            return functional.linear(input, self.weight, self.bias)
        primal, tangent = forward_ad.unpack_dual(input, level=_level())
        output = functional.linear(primal, self.weight, self.bias)
        if tangent is None:
            return output
        return forward_ad.make_dual(output, functional.linear(tangent, self.weight), level=_level())


class GELU(nn.Module):
    """GELU in its tanh approximation (arXiv:1606.08415, section 2), Flax's default.

        gelu(x) = x / 2 (1 + tanh(u)) = x sigmoid(2 u),    u = sqrt(2 / pi) (x + 0.044715 x^3)

    Compiled code computes the second form, which is the same function and on a CPU takes a third of the time: the
    compiler's vectorised tanh costs several times its exponential. There 2 u is kept within +-40, where the sigmoid is
    1 or 4e-18: exponentials that overflow or become denormal take twice the time, and the transformer's hidden units
    reach +-50. In eager mode torch's own kernel is one call.
    """

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Apply it to each element."""
        if not torch.compiler.is_compiling():
            return functional.gelu(x, approximate="tanh")
        return x * torch.sigmoid(((x + 0.044715 * x * x * x) * math.sqrt(8 / math.pi)).clamp(-40, 40))


def linear(in_dim: int, out_dim: int, *, scale: float = 1.0) -> Linear:
    """A linear layer with Xavier-uniform weights times `scale` and a bias of zero (Flax's habit in this field)."""
    layer = Linear(in_dim, out_dim)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    with torch.no_grad():
        layer.weight.mul_(scale)
    return layer


def join(*inputs: Float[Tensor, "*?batch _"] | None) -> Tensor:
    """Concatenate along the last axis, broadcasting the batch axes and leaving out None."""
    given = [part for part in inputs if part is not None]
    batch = torch.broadcast_shapes(*(part.shape[:-1] for part in given))
    parts = [part.expand(*batch, part.shape[-1]) for part in given]
    if not _in_jvp:
        return torch.cat(parts, dim=-1)
    # torch's own rule makes tangents without memory for parts that have none, which compiled code may read.
    duals = [forward_ad.unpack_dual(part, level=_level()) for part in parts]
    tangents = [torch.zeros_like(primal) if tangent is None else tangent for primal, tangent in duals]
    joined = torch.cat([primal for primal, _ in duals], dim=-1)
    return forward_ad.make_dual(joined, torch.cat(tangents, dim=-1), level=_level())


def _level() -> int | None:
    """The level of `jvp`'s dual numbers, as forward_ad wants it.

    Dynamo takes torch's global level for a constant, so that a plain forward pass before a `jvp` in one compiled region
    would hide the level of the latter: there it is named. In eager mode naming it costs a view.
    """
    return 0 if torch.compiler.is_compiling() else None


class RMSNorm(nn.Module):
    """x / rms(x) * sqrt(dim) * gain.

    Reference: HiccupRL/MeanFlowQL divides by the root mean square *and* multiplies by sqrt(dim) (usual is one of
    the two), so activations are sqrt(dim) times larger than in other transformers. The published numbers were made
    with it.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Normalise over the last axis."""
        inverse_rms = torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + 1e-6)
        return x * inverse_rms * (self.gain * self.gain.shape[0] ** 0.5)
