"""What makes an update fast: a compiler, memory that is kept, and on a CUDA device a graph that is replayed."""

import ctypes
import functools
import logging
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genpolicy.recording import Replayed

logger = logging.getLogger(__name__)

Update = Callable[..., dict[str, Tensor]]
"""Tensors in trees in, metrics out; what it changes in place lies at the same addresses at every call."""

_OPTIONS: dict[str, Any] = {"cpp.enable_floating_point_contract_flag": "fast"}
"""A product and a sum may be one instruction, rounded once."""

_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1
_MOST_MMAP_THRESHOLD = 32 * 2**20  # glibc takes no more


def compile_update(update: Callable[..., Any]) -> Callable[..., Any]:
    """Return `update` compiled without graph breaks, gradients and in-place steps included.

    If compilation fails at the first call (no C++ compiler, an unsupported operation), or later because there are too
    many sizes of batches, a warning names the cause and the eager update takes over for good; the arguments' tensors
    are untouched by a failed compilation.
    """
    from torch._dynamo.exc import FailOnRecompileLimitHit  # slow to import

    # Without this switch a gradient taken inside a compiled region breaks the graph.
    torch._dynamo.config.trace_autograd_ops = True
    update = _with_own_code(update)
    run: Callable[..., Any] | None = None
    worked = False

    @functools.wraps(update)
    def compiled_or_eager(*arguments: Any) -> Any:
        nonlocal run, worked
        try:
            if run is None:
                run = torch.compile(update, fullgraph=True, dynamic=False, options=_OPTIONS)
            result = run(*arguments)
            worked = True
            return result
        except Exception as error:
            if run is update or (worked and not isinstance(error, FailOnRecompileLimitHit)):
                raise
            cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            logger.warning("The update could not be compiled and runs eagerly: %s", cause)
            logger.debug("Where compiling failed:", exc_info=True)
            run = update
            return update(*arguments)

    return compiled_or_eager


def _with_own_code(update: Callable[..., Any]) -> Callable[..., Any]:
    """Return a copy of a function or method with a code object of its own.

    Dynamo counts compilations by code object and gives up after eight. All agents of a process share their methods, so
    that the ninth agent would run eagerly. Dynamo also keeps what it compiled as long as the code object lives, and
    `isolate_recompiles` of `torch.compile` would still count to 256 over all of them.
    """
    function: Any = getattr(update, "__func__", update)
    copy = types.FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy if function is update else types.MethodType(copy, update.__self__)  # type: ignore[attr-defined]


def packed(update: Update) -> Callable[..., tuple[Tensor, tuple[str, ...]]]:
    """Return `update` with its metrics as one tensor (metrics, ...) and their names, which is copied at once."""

    def packed_update(*arguments: Any) -> tuple[Tensor, tuple[str, ...]]:
        metrics = update(*arguments)
        return torch.stack(torch.broadcast_tensors(*metrics.values())), tuple(metrics)

    return packed_update


def replayed(update: Update) -> Update:
    """Return `update` recorded as a CUDA graph; see `Replayed`."""
    run = Replayed(packed(update))

    def replayed_update(*arguments: Any) -> dict[str, Tensor]:
        values, names = run(*arguments)
        return dict(zip(names, values.unbind(), strict=True))

    return replayed_update


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
