"""Work recorded once as a CUDA graph and replayed by one launch, where Python would launch its kernels one by one."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

logger = logging.getLogger(__name__)

CALLS_BEFORE_RECORDING = 2
"""Calls that run as they are, so that compilers and libraries have prepared themselves before work is recorded."""


@dataclass(frozen=True)
class Recording:
    """Recorded work: `replay` does it again, reading and writing the tensors that it was recorded with."""

    replay: Callable[[], None]
    output: Any


Record = Callable[[Callable[[], Any], Sequence[torch.Generator]], Recording]


def record_cuda(work: Callable[[], Any], generators: Sequence[torch.Generator] = ()) -> Recording:
    """Record work as a CUDA graph; recording does not execute it.

    Args:
        work: launches kernels and never waits for them.
        generators: those that it draws from; a replay advances them as the work would.
    """
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        output = work()
    return Recording(graph.replay, output)


class Replayed:
    """A function of tensors whose kernels are launched together; it may also change tensors in place.

    The first two calls with arguments of a kind (shapes, types, and the values of what is no tensor) run as they are;
    the third is recorded and from then on replayed: arguments are copied into the recorded ones and results are copied
    out, so nothing that was returned changes later. What cannot be recorded goes on as it is, with a warning.

    Args:
        function: of trees of tensors, which returns such a tree.
        generators: those that it draws from.
        record: how to record.
    """

    def __init__(
        self, function: Callable[..., Any], generators: Sequence[torch.Generator] = (), *, record: Record = record_cuda
    ):
        self._function = function
        self._generators = generators
        self._record = record
        self._replays: dict[Any, _Replay] = {}
        self._calls: dict[Any, int] = {}

    def __call__(self, *arguments: Any) -> Any:
        """Return what the function returns."""
        kind: list[Any] = []
        tensors: list[Tensor] = []
        _take_apart(arguments, kind, tensors)
        key = tuple(kind)
        replay = self._replays.get(key)
        if replay is None:
            calls = self._calls[key] = self._calls.get(key, 0) + 1
            if calls != CALLS_BEFORE_RECORDING + 1:
                result = self._function(*arguments)
                if not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(result)):
                    self._calls[key] = CALLS_BEFORE_RECORDING + 1  # there is nothing to record
                return result
            try:
                replay = _Replay(self._function, arguments, self._generators, self._record)
            except Exception as error:
                cause = next(iter(str(error).splitlines()), type(error).__name__)
                logger.warning("The work on the device could not be recorded and is slower for it: %s", cause)
                return self._function(*arguments)
            self._replays[key] = replay
        return replay(tensors)


def _take_apart(tree: Any, kind: list[Any], tensors: list[Tensor]) -> None:
    """Append what a tree is like and its tensors; several times as fast as `pytree`, on the path of every update."""
    if isinstance(tree, Tensor):
        kind.append((tree.shape, tree.dtype))
        tensors.append(tree)
    elif isinstance(tree, Mapping):
        kind.append(tuple(tree))
        for value in tree.values():
            _take_apart(value, kind, tensors)
    elif isinstance(tree, tuple | list):
        kind.append(len(tree))
        for value in tree:
            _take_apart(value, kind, tensors)
    else:
        kind.append(tree)


class _Replay:
    """A recording with tensors of its own for what goes in and comes out."""

    def __init__(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        generators: Sequence[torch.Generator],
        record: Record,
    ):
        own = pytree.tree_map_only(Tensor, Tensor.clone, arguments)
        self._inputs: list[Tensor] = []
        _take_apart(own, [], self._inputs)
        self._recording = record(lambda: function(*own), generators)

        self._made: list[Tensor] = []

    def __call__(self, tensors: list[Tensor]) -> Any:
        if tensors:
            torch._foreach_copy_(self._inputs, tensors)
        self._recording.replay()
        if not self._made:
            self._leaves, self._tree = pytree.tree_flatten(self._recording.output)
            self._made = [leaf for leaf in self._leaves if isinstance(leaf, Tensor)]
        copies = [torch.empty_like(tensor) for tensor in self._made]
        torch._foreach_copy_(copies, self._made)
        fresh = iter(copies)
        leaves = [next(fresh) if isinstance(leaf, Tensor) else leaf for leaf in self._leaves]
        return pytree.tree_unflatten(leaves, self._tree)
