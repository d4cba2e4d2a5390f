"""genpolicy: generative policies for offline and offline-to-online reinforcement learning."""

from typing import TYPE_CHECKING

from genpolicy.lazy import lazy_attributes

__version__ = "0.1.0"

if TYPE_CHECKING:
    from genpolicy.training.agent import Agent
    from genpolicy.training.assembly import load_agent, make_agent

__all__ = ["Agent", "load_agent", "make_agent"]

__getattr__ = lazy_attributes(
    __name__,
    {
        "Agent": "genpolicy.training.agent",
        "load_agent": "genpolicy.training.assembly",
        "make_agent": "genpolicy.training.assembly",
    },
)
