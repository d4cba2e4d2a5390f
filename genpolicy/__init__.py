"""genpolicy: generative policies for offline and offline-to-online reinforcement learning."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from genpolicy.training.agent import Agent
    from genpolicy.training.assembly import load_agent, make_agent

__all__ = ["Agent", "load_agent", "make_agent"]

_HOME = {
    "Agent": "genpolicy.training.agent",
    "load_agent": "genpolicy.training.assembly",
    "make_agent": "genpolicy.training.assembly",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import genpolicy` and the command line start fast."""
    if name not in _HOME:
        raise AttributeError(f"module 'genpolicy' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)
