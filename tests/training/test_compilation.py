import logging
import platform
import resource
from collections.abc import Callable
from typing import Any

import pytest
import torch

from genpolicy.training.compilation import Replayed, keep_freed_memory
from tests.helpers import raw_batch, small_agent


def test_without_compilation_the_update_runs_eagerly_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(update: Callable, **options: Any) -> Callable:
        def fail(*arguments: Any) -> Any:
            raise RuntimeError("no compiler here\nmore about it")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    eager, compiled = small_agent(), small_agent()
    compiled.accelerate()
    with caplog.at_level(logging.WARNING):
        for step in range(2):
            expected, found = (agent.update(raw_batch(seed=step)) for agent in (eager, compiled))
            assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert [record.message for record in caplog.records] == [
        "The update could not be compiled and runs eagerly: no compiler here"
    ]
    assert compiled.step == 2


def test_a_python_that_cannot_compile_at_all_runs_eagerly_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("torch.compile is not supported on this Python")

    monkeypatch.setattr(torch, "compile", refuse)
    agent = small_agent()
    agent.accelerate()
    agent.update(raw_batch())


def test_a_batch_size_too_many_for_the_compiler_runs_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each size is compiled anew, and Dynamo gives up after eight."""

    def compile_two_sizes(update: Callable, **options: Any) -> Callable:
        sizes: set[int] = set()

        def compiled(batch: Any, draws: Any) -> Any:
            sizes.add(len(batch.actions))
            if len(sizes) > 2:
                raise torch._dynamo.exc.FailOnRecompileLimitHit("Hard failure due to fullgraph=True")
            return update(batch, draws)

        return compiled

    monkeypatch.setattr(torch, "compile", compile_two_sizes)
    agent = small_agent()
    agent.accelerate()
    for step, size in enumerate((8, 4, 6, 5, 8)):
        agent.update(raw_batch(size))
        assert agent.step == agent.state["step"].item() == step + 1


@pytest.mark.slow
def test_a_compiled_update_equals_the_eager_one(caplog: pytest.LogCaptureFixture) -> None:
    options = ("policy.bc_schedule.kind=adaptive", "policy.bc_schedule.interval=1", "head.consistency_weight=0.5")
    eager, compiled = (small_agent("meanflow_ql", *options) for _ in range(2))
    compiled.accelerate()
    with caplog.at_level(logging.WARNING):
        for step in range(4):
            expected, found = (agent.update(raw_batch(seed=step)) for agent in (eager, compiled))
            assert expected.keys() == found.keys()
            for name in expected:
                # float32, summed in another order; differences grow with the steps
                torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)
    assert "could not be compiled" not in caplog.text
    for name, value in eager.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], value, rtol=1e-3, atol=1e-5)


class Imitation:
    """A recording without a GPU: like a graph it is not executed when it is made, and writes to the same places."""

    made = 0

    def __init__(self, work: Callable[[], Any]):
        Imitation.made += 1
        self._work = work
        self.output: Any = None

    def replay(self) -> None:
        result = self._work()
        self.output = result if self.output is None else self.output.copy_(result)


def replayed_agent(*overrides: str) -> Any:
    agent = small_agent("meanflow_ql", *overrides)
    agent._update, agent._delayed = (Replayed(one, Imitation) for one in (agent._update, agent._delayed))
    return agent


@pytest.mark.parametrize("overrides", [(), ("agent.policy_every=2",)])
def test_a_replayed_update_is_the_update(overrides: tuple[str, ...]) -> None:
    plain, replayed = small_agent("meanflow_ql", *overrides), replayed_agent(*overrides)
    kept = []
    for step in range(9):
        size = 6 if step == 6 else 8  # another size is recorded by itself
        expected, found = (agent.update(raw_batch(size, seed=step)) for agent in (plain, replayed))
        kept.append((expected, found))
    for expected, found in kept:  # also those of earlier updates still are what they were
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)
    state = replayed.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())


def test_an_update_is_recorded_once_for_each_kind_of_arguments() -> None:
    Imitation.made = 0
    agent = replayed_agent()
    for step, size in enumerate((8, 8, 8, 8, 4, 4, 4, 8, 4)):
        agent.update(raw_batch(size, seed=step))
    assert Imitation.made == 2


def test_a_replayed_update_leaves_the_callers_batch_alone() -> None:
    agent, batches = replayed_agent(), [raw_batch(seed=seed) for seed in range(5)]
    for batch in batches:
        agent.update(batch)
    for seed, batch in enumerate(batches):
        assert all(torch.equal(batch[name], value) for name, value in raw_batch(seed=seed).items())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_memory_of_an_update_is_not_given_back_to_the_system() -> None:
    assert keep_freed_memory()
    counts = []
    for _ in range(20):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.zeros(3_000_000).add_(1)  # 12 MB, 2930 pages
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert min(counts) < 100
