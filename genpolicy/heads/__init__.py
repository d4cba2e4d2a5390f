"""Generative heads: how an action is generated from an observation and noise, and how that is fitted to data."""

from genpolicy.heads.base import GenerativeHead, HeadLoss
from genpolicy.heads.gaussian import GaussianConfig, GaussianHead
from genpolicy.heads.meanflow import MeanFlowConfig, MeanFlowHead
from genpolicy.heads.objectives import OBJECTIVES, Objective
from genpolicy.heads.reformulations import REFORMULATIONS, Reformulation
from genpolicy.heads.time_sampling import TimeError

__all__ = [
    "OBJECTIVES",
    "REFORMULATIONS",
    "GaussianConfig",
    "GaussianHead",
    "GenerativeHead",
    "HeadLoss",
    "MeanFlowConfig",
    "MeanFlowHead",
    "Objective",
    "Reformulation",
    "TimeError",
]
