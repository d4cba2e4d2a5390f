"""Policies: how the critic improves the head, and how the improved head acts."""

from genpolicy.policies.base import Policy, PolicyConfig, PolicyLoss
from genpolicy.policies.bc_weight import BCScheduleConfig
from genpolicy.policies.behaviour_cloning import BehaviourCloning, BehaviourCloningConfig
from genpolicy.policies.q_gradient import QGradient, QGradientConfig

__all__ = [
    "BCScheduleConfig",
    "BehaviourCloning",
    "BehaviourCloningConfig",
    "Policy",
    "PolicyConfig",
    "PolicyLoss",
    "QGradient",
    "QGradientConfig",
]
