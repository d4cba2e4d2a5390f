"""Critics: how values are learned."""

from genpolicy.critics.base import Critic, CriticLoss
from genpolicy.critics.td import TDConfig, TDCritic

__all__ = ["Critic", "CriticLoss", "TDConfig", "TDCritic"]
