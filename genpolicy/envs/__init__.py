"""Environments, parallel evaluation in the simulator, and videos.

The names below are imported on first use: simulator processes import this package too, and must load neither
torch nor more of the library than they need.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genpolicy.envs.evaluator import Evaluation, Evaluator
    from genpolicy.envs.make import make_env
    from genpolicy.envs.video import record_video

__all__ = ["Evaluation", "Evaluator", "make_env", "record_video"]

_MODULES = {
    "Evaluation": "genpolicy.envs.evaluator",
    "Evaluator": "genpolicy.envs.evaluator",
    "make_env": "genpolicy.envs.make",
    "record_video": "genpolicy.envs.video",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
