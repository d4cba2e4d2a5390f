import functools
import logging
import platform
import resource
from collections.abc import Callable
from typing import Any

import pytest
import torch

from genpolicy.training.compilation import compile_update, keep_freed_memory
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


class Scaled:
    """Its update is compiled anew for each factor, which Dynamo takes for a constant."""

    def __init__(self, factor: int):
        self.factor = factor

    def update(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"scaled": x * self.factor}


def test_many_agents_of_one_process_are_all_compiled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker of the benchmarks trains one after another; Dynamo's limit is for each of them, not for all."""
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 1)
    compiled_by = []

    def backend(graph: Any, inputs: Any, options: dict[str, Any]) -> Callable:
        compiled_by.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    with caplog.at_level(logging.WARNING):
        for factor in (2, 3, 5):
            run = compile_update(Scaled(factor).update)
            assert run(torch.ones(2))["scaled"].tolist() == [factor, factor]
    assert len(compiled_by) == 3 and not caplog.records


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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_memory_of_an_update_is_not_given_back_to_the_system() -> None:
    assert keep_freed_memory()
    counts = []
    for _ in range(20):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.zeros(3_000_000).add_(1)  # 12 MB, 2930 pages
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert min(counts) < 100
