"""Agents of several seeds that learn together: one batched computation in place of many small ones."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from genpolicy.batch import Batch
from genpolicy.errors import ConfigError, ShapeError
from genpolicy.recording import Replayed
from genpolicy.training.agent import Agent, Losses
from genpolicy.training.optimizer import StackedAdam


class AgentGroup:
    """Updates n agents at once: their parameters are stacked, and the losses are vectorised over the stack.

        losses = vmap(loss)(stacked parameters, stacked batches, stacked draws)      gradients of their sum, one Adam

    Each agent keeps its own data, draws, moments, adaptive weights and schedule, and nothing flows between them: an
    update equals that of each agent alone but for the rounding of another order of sums. An agent that diverges leaves
    the others as they are.

    Cost: n updates' arithmetic, and one update's overhead.

    The agents stay what they were: from now on their tensors are views of the stack, so `act`, `state_dict` and
    `load_state_dict` of each work as before, at any time between two updates.

    Args:
        agents: of one configuration but for the seed, after equally many updates.

    Raises:
        ConfigError: if there are none, they differ in parts, sizes or options, or see images.
    """

    def __init__(self, agents: Sequence[Agent]):
        _check(agents)
        self.agents = list(agents)
        self._stack = _Stack(self.agents)
        self._join: Callable[..., tuple[Batch, dict[str, Any]]] = self._encoded_and_stacked

    @property
    def step(self) -> int:
        """Updates done."""
        return self._stack.step

    def update(self, batches: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Do one update of every agent.

        Args:
            batches: one for each agent, as `Agent.update` takes it, all of one size.

        Returns:
            The metrics of each agent.

        Raises:
            ConfigError: if the agents have done different numbers of updates.
            ShapeError: if there are more or fewer batches than agents, or they differ in size.
        """
        _check_steps(self.agents)
        sizes = [len(batch["observations"]) for batch in batches]
        if len(batches) != len(self.agents) or len(set(sizes)) > 1:
            raise ShapeError(
                f"The batches have {', '.join(map(str, sizes))} rows; give one for each of the {len(self.agents)} "
                "agents, all of one size."
            )
        if self._stack.step != self.agents[0].step:  # the agents have loaded a state
            self._stack.adopt_counts(self.agents)
        draws = [agent.draw(rows) for agent, rows in zip(self.agents, sizes, strict=True)]
        metrics = self._stack.update_with_draws(*self._join(list(batches), draws))
        for agent in self.agents:
            agent.step += 1
        for part, optimizer in self._stack._optimizers().items():
            counts = [agent._optimizers()[part].count for agent in self.agents]
            torch._foreach_copy_(counts, [optimizer.count] * len(counts))
        split = {name: value.expand(len(self.agents)).unbind() for name, value in metrics.items()}
        return [{name: values[index] for name, values in split.items()} for index in range(len(self.agents))]

    def accelerate(self, *, compiled: bool = True) -> None:
        """Make updates of all agents fast; see `Agent.accelerate`."""
        self._stack.accelerate(compiled=compiled)
        if self._stack.device.type == "cuda":
            self._join = Replayed(self._join)
            for agent in self.agents:
                agent.record_draws()

    def _encoded_and_stacked(
        self, batches: Sequence[Mapping[str, Tensor]], draws: Sequence[dict[str, Any]]
    ) -> tuple[Batch, dict[str, Any]]:
        encoded = [agent.encode(batch) for agent, batch in zip(self.agents, batches, strict=True)]
        return _stacked(encoded), _stacked(draws)


class _Stack(Agent):
    """An agent whose tensors are stacks (n, ...) of its members' and whose losses have shape (n,)."""

    _adam = StackedAdam

    def __init__(self, members: Sequence[Agent]):
        first = members[0]
        policy, critic, encoder = copy.deepcopy((first.policy, first.critic, first.encoder))
        _bind(policy, [one.policy for one in members])
        if critic is not None:
            _bind(critic, [one.critic for one in members if one.critic is not None])
        super().__init__(
            policy,
            critic,
            encoder,
            config=first.config,
            action_dim=first.action_dim,
            action_chunk=first.action_chunk,
            total_steps=first.policy.total_steps,
            pretrain_steps=first.pretrain_steps,
            device=first.device,
        )
        for part, optimizer in self._optimizers().items():
            theirs = [one._optimizers()[part] for one in members]
            for moments in ("first_moments", "second_moments"):
                stacks = [torch.stack(one) for one in zip(*(getattr(each, moments) for each in theirs), strict=True)]
                setattr(optimizer, moments, stacks)
                for index, each in enumerate(theirs):
                    setattr(each, moments, [stack[index] for stack in stacks])
        self.state = {name: torch.stack([one.state[name] for one in members]) for name in first.state}
        for index, member in enumerate(members):
            member.state = {name: stack[index] for name, stack in self.state.items()}
        self._parts = _Parts(self.policy, self.critic)
        self.adopt_counts(members)

    def adopt_counts(self, members: Sequence[Agent]) -> None:
        """Take over the members' step and optimisers' counts, the least where a run that is over has done more."""
        self.step = members[0].step
        for part, optimizer in self._optimizers().items():
            optimizer.count.copy_(torch.stack([one._optimizers()[part].count for one in members]).min())

    def _policy_losses(self, batch: Batch, draws: dict[str, Any], state: Mapping[str, Tensor]) -> Losses:
        """What `Agent._policy_losses` returns, each with a leading axis n; the others below likewise."""
        return self._of_members(super()._policy_losses, batch, draws)

    def gradients(self, losses: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, ...]]:
        """Differentiate the sum of the members' losses: each depends on its member's parameters alone."""
        return super().gradients({part: loss.sum() for part, loss in losses.items()})

    def _critic_losses(self, batch: Batch, draws: dict[str, Any], _: Any = None) -> Losses:
        return self._of_members(super()._critic_losses, batch, draws)

    def _pretrain_losses(self, batch: Batch, draws: dict[str, Any], _: Any = None) -> Losses:
        return self._of_members(super()._pretrain_losses, batch, draws)

    def _of_members(self, losses: Callable[..., Losses], batch: Batch, draws: dict[str, Any]) -> Losses:
        tensors = dict(self._parts.named_parameters())

        def of_one(tensors: Any, state: Any, batch: Any, draws: Any) -> Losses:
            return torch.func.functional_call(self._parts, tensors, (losses, batch, draws, state))

        arguments = (tensors, self.state, batch, draws)
        axes = pytree.tree_map(lambda leaf: 0 if isinstance(leaf, Tensor) else None, arguments)
        return torch.func.vmap(of_one, in_dims=axes)(*arguments)


class _Parts(nn.Module):
    """Policy and critic as one module, so that the parameters of both can be replaced for one call."""

    def __init__(self, policy: nn.Module, critic: nn.Module | None):
        super().__init__()
        self.policy, self.critic = policy, critic

    def forward(self, losses: Callable[..., Losses], *arguments: Any) -> Losses:
        return losses(*arguments)


def _bind(stack: nn.Module, members: Iterable[nn.Module]) -> None:
    """Give `stack` the members' parameters, stacked, and make theirs views of them."""
    of_members = [dict(member.named_parameters()) for member in members]
    for name, parameter in stack.named_parameters():
        parameter.data = torch.stack([one[name].data for one in of_members])
        for index, one in enumerate(of_members):
            one[name].data = parameter.data[index]


def _stacked(trees: Sequence[Any]) -> Any:
    """Stack the tensors of equal trees; other leaves are those of the first."""
    return pytree.tree_map(lambda *leaves: torch.stack(leaves) if isinstance(leaves[0], Tensor) else leaves[0], *trees)


def _check(agents: Sequence[Agent]) -> None:
    if not agents:
        raise ConfigError("A group needs at least one agent.")
    first = agents[0]
    if first.images:
        raise ConfigError("Agents that see images cannot be trained as a group yet; train each seed by itself.")
    for agent in agents[1:]:
        same = (agent.config, agent.pretrain_steps, agent.action_chunk, agent.device) == (
            first.config,
            first.pretrain_steps,
            first.action_chunk,
            first.device,
        )
        parts = ("policy", "critic")
        configs = [[getattr(getattr(one, part), "config", None) for part in parts] for one in (agent, first)]
        heads = [one.policy.head.config for one in (agent, first)]
        shapes = [{name: one.shape for name, one in each.state_dict().items()} for each in (agent, first)]
        if not same or configs[0] != configs[1] or heads[0] != heads[1] or shapes[0] != shapes[1]:
            raise ConfigError(
                "The agents of a group differ in more than their seed; give all of them one configuration."
            )
    _check_steps(agents)


def _check_steps(agents: Sequence[Agent]) -> None:
    steps = sorted({agent.step for agent in agents})
    if len(steps) > 1:
        raise ConfigError(
            f"The agents of a group have done different numbers of updates: {steps}. Bring them to the same step first."
        )
