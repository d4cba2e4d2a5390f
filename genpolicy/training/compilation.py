"""Making the update fast: compiled as one region and, on a CUDA device, replayed as one graph."""

import ctypes
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

logger = logging.getLogger(__name__)

Update = Callable[..., dict[str, Tensor]]
"""Tensors in trees in, metrics out; what it changes in place lies at the same addresses at every call."""

_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1
_MOST_MMAP_THRESHOLD = 32 * 2**20  # glibc takes no more
_EAGER_CALLS = 2


def accelerate(update: Update, device: torch.device, *, compiled: bool = True) -> Update:
    """Return `update` as fast as the device allows: compiled if asked for, and replayed as a graph on CUDA devices."""
    keep_freed_memory()
    if compiled:
        update = compile_update(update)
    return Replayed(update) if device.type == "cuda" else update


def compile_update(update: Callable[..., Any]) -> Callable[..., Any]:
    """Return `update` compiled without graph breaks, gradients and in-place steps included.

    If compilation fails at the first call (no C++ compiler, an unsupported operation), or later because there are too
    many sizes of batches, a warning names the cause and the eager update takes over for good; the arguments' tensors
    are untouched by a failed compilation.
    """
    from torch._dynamo.exc import FailOnRecompileLimitHit  # slow to import

    # Without this switch a gradient taken inside a compiled region breaks the graph.
    torch._dynamo.config.trace_autograd_ops = True
    run: Callable[..., Any] | None = None
    worked = False

    @functools.wraps(update)
    def compiled_or_eager(*arguments: Any) -> Any:
        nonlocal run, worked
        try:
            if run is None:
                run = torch.compile(update, fullgraph=True, dynamic=False)
            result = run(*arguments)
            worked = True
            return result
        except Exception as error:
            if run is update or (worked and not isinstance(error, FailOnRecompileLimitHit)):
                raise
            cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            logger.warning("The update could not be compiled and runs eagerly: %s", cause)
            run = update
            return update(*arguments)

    return compiled_or_eager


@dataclass(frozen=True)
class Recording:
    """Work recorded once: `replay` does it again, reading and writing the tensors that it was recorded with."""

    replay: Callable[[], None]
    output: Any


def record_cuda(work: Callable[[], Any]) -> Recording:
    """Record work as a CUDA graph; recording does not execute it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = work()
    return Recording(graph.replay, output)


class Replayed:
    """An update whose kernels are launched together, as one CUDA graph, instead of one by one from Python.

    The first two calls with arguments of a kind (shapes, types, and the values of what is no tensor) run as they are,
    which lets compilers and libraries prepare themselves; the third is recorded and from then on replayed: arguments
    are copied into the recorded ones, and metrics are copied out, so nothing that is returned changes later.

    Args:
        update: what to record.
        record: how; `record_cuda`.
    """

    def __init__(self, update: Update, record: Callable[[Callable[[], Any]], Recording] = record_cuda):
        self._update = update
        self._record = record
        self._recordings: dict[Any, _Recorded] = {}
        self._calls: dict[Any, int] = {}

    def __call__(self, *arguments: Any) -> dict[str, Tensor]:
        """Do one update."""
        leaves, tree = pytree.tree_flatten(arguments)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        kind = (str(tree), *((leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves))
        recorded = self._recordings.get(kind)
        if recorded is None:
            calls = self._calls[kind] = self._calls.get(kind, 0) + 1
            if calls <= _EAGER_CALLS:
                return self._update(*arguments)
            recorded = self._recordings[kind] = _Recorded(self._update, self._record, leaves, tree)
        return recorded(tensors)


class _Recorded:
    """An update recorded for one kind of arguments."""

    def __init__(self, update: Update, record: Callable[..., Recording], leaves: list[Any], tree: pytree.TreeSpec):
        own = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._inputs = [leaf for leaf in own if isinstance(leaf, Tensor)]
        self._names: tuple[str, ...] = ()

        def work() -> Tensor:
            metrics = update(*pytree.tree_unflatten(own, tree))
            self._names = tuple(metrics)
            return torch.stack(torch.broadcast_tensors(*metrics.values()))

        self._recording = record(work)

    def __call__(self, tensors: list[Tensor]) -> dict[str, Tensor]:
        torch._foreach_copy_(self._inputs, tensors)
        self._recording.replay()
        return dict(zip(self._names, self._recording.output.clone().unbind(), strict=True))


@functools.cache
def keep_freed_memory() -> bool:
    """Let the process keep memory that it has freed; return whether the C library could be told so.

    An update allocates and frees the same tensors each time. glibc gives large ones back to the system at once, which
    then clears them page by page when they are next needed: 2,700 page faults per update at paper size. Kept is what
    is freed, up to 32 MiB apiece.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _MOST_MMAP_THRESHOLD) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
