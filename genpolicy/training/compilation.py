"""Compiling the update as one region."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch

logger = logging.getLogger(__name__)


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
