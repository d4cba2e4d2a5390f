"""Compiling the update as one region."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch

logger = logging.getLogger(__name__)


def compile_update(update: Callable[..., Any]) -> Callable[..., Any]:
    """Return `update` compiled without graph breaks, gradients and in-place steps included.

    If compilation fails at the first call (no C++ compiler, an unsupported operation), a warning names the cause and
    the eager update takes over for good; the arguments' tensors are untouched by a failed compilation.
    """
    # Without this switch a gradient taken inside a compiled region breaks the graph.
    torch._dynamo.config.trace_autograd_ops = True
    compiled = torch.compile(update, fullgraph=True, dynamic=False)
    chosen: list[Callable[..., Any]] = []

    @functools.wraps(update)
    def first_compiled_then_chosen(*arguments: Any) -> Any:
        if chosen:
            return chosen[0](*arguments)
        try:
            result = compiled(*arguments)
        except Exception as error:
            cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            logger.warning("The update could not be compiled and runs eagerly: %s", cause)
            chosen.append(update)
            return update(*arguments)
        chosen.append(compiled)
        return result

    return first_compiled_then_chosen
