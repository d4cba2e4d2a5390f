"""Environments, parallel evaluation in the simulator, and videos.

The names below are imported on first use: simulator processes import this package too, and must load neither
torch nor more of the library than they need.
"""

from typing import TYPE_CHECKING

from genpolicy.lazy import lazy_attributes

if TYPE_CHECKING:
    from genpolicy.envs.evaluator import Evaluation, Evaluator
    from genpolicy.envs.make import make_env
    from genpolicy.envs.video import record_video

__all__ = ["Evaluation", "Evaluator", "make_env", "record_video"]

__getattr__ = lazy_attributes(
    __name__,
    {
        "Evaluation": "genpolicy.envs.evaluator",
        "Evaluator": "genpolicy.envs.evaluator",
        "make_env": "genpolicy.envs.make",
        "record_video": "genpolicy.envs.video",
    },
)
