"""Recorded work, with an imitation of a GPU's graph: not executed when it is made, and writing to the same places."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

from genpolicy import Agent
from genpolicy.data import BatchSampler, TransitionDataset
from genpolicy.recording import Replayed
from genpolicy.training import agent as agents
from genpolicy.training.agent_group import AgentGroup
from genpolicy.training.compilation import packed
from tests.helpers import raw_batch, small_agent


class Imitation:
    def __init__(self, work: Callable[[], Any], generators: Sequence[torch.Generator] = ()):
        self._work = work
        self.output: Any = None

    def replay(self) -> None:
        result = self._work()
        if self.output is None:
            self.output = result
        else:
            for old, new in zip(pytree.tree_leaves(self.output), pytree.tree_leaves(result), strict=True):
                if isinstance(old, torch.Tensor):
                    old.copy_(new)


def replayed_update(update: Callable) -> Callable:
    run = Replayed(packed(update), record=Imitation)

    def call(*arguments: Any) -> dict[str, torch.Tensor]:
        values, names = run(*arguments)
        return dict(zip(names, values.unbind(), strict=True))

    return call


def replayed_agent(*overrides: str) -> Agent:
    agent = small_agent("meanflow_ql", *overrides)
    agent._update, agent._delayed = map(replayed_update, (agent._update, agent._delayed))
    agent._draw_for_update = Replayed(agent._draw_for_update, record=Imitation)
    return agent


@pytest.mark.parametrize("overrides", [(), ("agent.policy_every=2",)])
def test_a_replayed_update_is_the_update(overrides: tuple[str, ...]) -> None:
    plain, replayed = small_agent("meanflow_ql", *overrides), replayed_agent(*overrides)
    kept = []
    for step in range(9):
        size = 6 if step == 6 else 8  # another size is recorded by itself
        kept.append([agent.update(raw_batch(size, seed=step)) for agent in (plain, replayed)])
    for expected, found in kept:  # also what earlier updates returned still is what it was
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)
    state = replayed.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())


def test_the_two_losses_apart_are_the_update() -> None:
    """What runs side by side on a GPU, one after the other."""
    whole, parts = small_agent(), small_agent()
    for step in range(3):
        expected = whole.update(raw_batch(seed=step))
        batch, draws = parts.encode(raw_batch(seed=step)), parts.draw(8)
        of_critic, critic_metrics = parts._critic_gradients(batch, draws)
        of_policy, metrics, state = parts._policy_gradients(batch, draws)
        found = metrics | critic_metrics | parts._finish(of_policy | of_critic, state)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_group_is_replayed_like_one_agent() -> None:
    together, alone = ([small_agent(seed=seed) for seed in range(2)] for _ in range(2))
    group, plain = AgentGroup(together), AgentGroup(alone)
    group._stack._update = replayed_update(group._stack._update)
    for step in range(5):
        batches = [raw_batch(seed=2 * step + index) for index in range(2)]
        for expected, found in zip(plain.update(batches), group.update(batches), strict=True):
            assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_each_kind_of_arguments_is_recorded_once() -> None:
    made = []

    def record(work: Callable[[], Any], generators: Sequence[torch.Generator] = ()) -> Imitation:
        made.append(Imitation(work))
        return made[-1]

    double = Replayed(lambda x, factor: x * factor, record=record)
    for size, factor in ((3, 2), (3, 2), (3, 2), (3, 2), (5, 2), (5, 2), (5, 2), (3, 2), (5, 2), (3, 4)):
        x = torch.randn(size)
        assert torch.equal(double(x, factor), x * factor)
    assert len(made) == 2


def test_arguments_are_left_alone() -> None:
    agent, batches = replayed_agent(), [raw_batch(seed=seed) for seed in range(5)]
    for batch in batches:
        agent.update(batch)
    for seed, batch in enumerate(batches):
        assert all(torch.equal(batch[name], value) for name, value in raw_batch(seed=seed).items())


def test_what_cannot_be_recorded_goes_on_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(work: Callable[[], Any], generators: Sequence[torch.Generator] = ()) -> Imitation:
        raise RuntimeError("operation not permitted when stream is capturing\nmore about it")

    double = Replayed(lambda x: 2 * x, record=refuse)
    with caplog.at_level(logging.WARNING):
        for number in range(6):
            assert double(torch.tensor(number)) == 2 * number
    assert [record.message for record in caplog.records] == [
        "The work on the device could not be recorded and is slower for it: operation not permitted when stream is "
        "capturing"
    ]


@pytest.mark.parametrize(
    ("overrides", "follows"),
    [
        ((), False),
        (("head.two_time=true", "head.objective=alpha"), True),
        (("head=consistency",), True),
        (("head=gaussian",), False),
    ],
)
def test_draws_that_follow_the_progress_of_training_are_not_recorded(overrides: tuple[str, ...], follows: bool) -> None:
    head = small_agent("meanflow_ql", *overrides).policy.head
    assert agents.draws_follow_progress(head) is follows
    if follows:
        return
    agent = small_agent("meanflow_ql", *overrides)
    agent.policy.total_steps = 100
    drawn = []
    for step in (0, 50, 100):
        agent.step = step
        drawn.append(pytree.tree_leaves(agent._draw(8, torch.Generator().manual_seed(0))))
    for later in drawn[1:]:
        assert all(torch.equal(one, other) for one, other in zip(drawn[0], later, strict=True))


def test_draws_without_a_tensor_are_not_recorded() -> None:
    def record(work: Callable[[], Any], generators: Sequence[torch.Generator] = ()) -> Imitation:
        raise AssertionError("there is nothing to record")

    draw = Replayed(lambda n: {"policy": ((), n), "critic": ()}, record=record)
    assert [draw(3) for _ in range(5)] == 5 * [{"policy": ((), 3), "critic": ()}]


def test_replayed_batches_are_those_of_the_generator() -> None:
    ends = torch.zeros(100, dtype=torch.bool)
    ends[9::10] = True
    arrays = torch.randn(100, 3), torch.rand(100, 2), -torch.ones(100), torch.ones(100), ends
    data = TransitionDataset.from_arrays(*arrays, name="random")
    plain, replayed = (BatchSampler(data, 4, discount=0.9) for _ in range(2))
    replayed._make = Replayed(replayed._make, record=Imitation)
    kept = [(plain.sample(), replayed.sample()) for _ in range(6)]
    for expected, found in kept:
        assert all(torch.equal(expected[name], found[name]) for name in expected)
