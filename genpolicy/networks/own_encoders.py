"""Image encoders, one for each network that sees observations."""

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from genpolicy.errors import ConfigError
from genpolicy.networks.base import Backbone
from genpolicy.networks.encoders import Encoder
from genpolicy.networks.ensemble import EnsembleMLP

_NETWORKS = (Backbone, EnsembleMLP)


class OwnEncoders(nn.Module):
    """Gives each network of a policy and a critic an image encoder of its own, as seohongpark/fql does.

        features(s) = [encoder_1(s), encoder_2(s), ...]       network_i(features, ...) reads encoder_i's section only

    So each loss trains the encoders of its own part alone, a target network has a target encoder that follows by the
    same moving average, and an observation is encoded once however often a network is asked about it. Heads, critics
    and policies know nothing of it: to them features are a vector.

    The networks are the policy's and critic's `Backbone`s and `EnsembleMLP`s (a critic's ensemble shares one encoder, a
    head of two networks has two). Encoders become submodules of their networks, and so part of their optimiser and
    checkpoint.

    Cost: one pass of each encoder, targets included, over each observation and next observation.

    Args:
        policy: with heads made for features of one encoder's width.
        critic: likewise; None if there is none.
        make: makes an encoder.
        observation_shape: (H, W, C).

    Raises:
        ConfigError: if a part has no network of these kinds, or a frozen one of unknown origin.
    """

    def __init__(
        self,
        policy: nn.Module,
        critic: nn.Module | None,
        make: Callable[[], Encoder],
        *,
        observation_shape: Sequence[int],
    ):
        super().__init__()
        self.observation_shape = tuple(observation_shape)
        encoder_of: dict[nn.Module, Encoder] = {}
        self._parts: list[list[Encoder]] = []  # plain lists, since the encoders belong to their networks
        for part in (policy, critic):
            if part is None:
                continue
            own = list(_networks(part))
            if not own:
                raise ConfigError(
                    f"{type(part).__name__} has no Backbone or EnsembleMLP, so an image encoder cannot be put before "
                    "its networks; make them of these, or use observations that are vectors."
                )
            for network in own:
                encoder_of[network] = network.encoder = make()
            self._parts.append([encoder_of[network] for network in own])
        width = self._parts[0][0].feature_dim
        for start, network in zip(count(0, width), encoder_of, strict=False):
            network.register_forward_pre_hook(_reader(start, width, width * len(encoder_of)))
        online = dict(_followed(policy)) | ({} if critic is None else dict(_followed(critic)))
        for network in encoder_of:
            if any(one.requires_grad for name, one in network.named_parameters() if not name.startswith("encoder.")):
                continue
            if network not in online:
                raise ConfigError(
                    f"A frozen {type(network).__name__} is neither the policy's target_head nor a critic's target, so "
                    "its image encoder cannot follow any other; give it one of these names."
                )
            encoder_of[network].load_state_dict(encoder_of[online[network]].state_dict())
            encoder_of[network].requires_grad_(False)

    def forward(self, observation: Shaped[Tensor, "*batch H W C"]) -> Float[Tensor, "*batch F"]:
        """Return the features (\\*batch, sum of the encoders' widths) of images."""
        return torch.cat([encoder(observation) for part in self._parts for encoder in part], dim=-1)

    def for_losses(
        self, observation: Shaped[Tensor, "*batch H W C"]
    ) -> tuple[Float[Tensor, "*batch F"], Float[Tensor, "*batch F"]]:
        """Return the features twice, for the policy's loss and for the critic's."""
        parts = [torch.cat([encoder(observation) for encoder in part], dim=-1) for part in self._parts]
        if len(parts) == 1:
            return parts[0], parts[0]
        policy, critic = parts
        # Stop-gradient: to each loss the other part is data, and the compiler wants no node that both share.
        return torch.cat([policy, critic.detach()], dim=-1), torch.cat([policy.detach(), critic], dim=-1)


def _networks(part: nn.Module) -> Iterator[nn.Module]:
    """The outermost networks of a part, in a fixed order."""
    for child in part.children():
        if isinstance(child, _NETWORKS):
            yield child
        else:
            yield from _networks(child)


def _followed(part: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Pairs of a target network and the online one that it follows."""
    for target, online in (("target_head", "head"), ("target", "online")):
        modules = [one for name in (target, online) if isinstance(one := getattr(part, name, None), nn.Module)]
        if len(modules) == 2:
            ours, theirs = ([one] if isinstance(one, _NETWORKS) else list(_networks(one)) for one in modules)
            yield from zip(ours, theirs, strict=True)


def _reader(start: int, width: int, total: int) -> Callable[[nn.Module, tuple], tuple]:
    """A hook that narrows a network's first argument, features or features beside an action, to one section."""

    def read(network: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        x, *others = arguments
        own = x.narrow(-1, start, width)
        if x.shape[-1] > total:
            own = torch.cat([own, x[..., total:]], dim=-1)
        return own, *others

    return read
