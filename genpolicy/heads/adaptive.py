"""The adaptive weight of MeanFlow: regressions with large errors count less."""

from jaxtyping import Float
from torch import Tensor


def adaptive_weight(error: Float[Tensor, " B"], *, gamma: float, c: float) -> Float[Tensor, " B"]:
    """Return clip(1 / (error + c)^(1 - gamma), 1e-6, 1e6) without gradient (arXiv:2505.13447, equation 22)."""
    power = (error.detach() + c).pow(1.0 - gamma).clamp(min=1e-12)
    return power.reciprocal().clamp(1e-6, 1e6)
