"""Generative heads: how an action is generated from an observation and noise, and how that is fitted to data."""

from genpolicy.heads.base import GenerativeHead, HeadLoss
from genpolicy.heads.consistency import ConsistencyConfig, ConsistencyHead
from genpolicy.heads.deterministic import DeterministicConfig, DeterministicHead
from genpolicy.heads.diffusion import DiffusionConfig, DiffusionHead
from genpolicy.heads.distilled_flow import DistilledFlowConfig, DistilledFlowHead
from genpolicy.heads.drifting import DriftingConfig, DriftingHead
from genpolicy.heads.flow import FlowConfig, FlowHead
from genpolicy.heads.gaussian import GaussianConfig, GaussianHead
from genpolicy.heads.meanflow import MeanFlowConfig, MeanFlowHead
from genpolicy.heads.mixture import MixtureConfig, MixtureHead
from genpolicy.heads.objectives import OBJECTIVES, Objective
from genpolicy.heads.protocols import HasCurriculum, HasLogProb, HasLossWithSample
from genpolicy.heads.reformulations import REFORMULATIONS, Reformulation
from genpolicy.heads.shortcut import ShortcutConfig, ShortcutHead
from genpolicy.heads.tanh_gaussian import TanhGaussianConfig, TanhGaussianHead
from genpolicy.heads.time_sampling import TimeError

__all__ = [
    "OBJECTIVES",
    "REFORMULATIONS",
    "ConsistencyConfig",
    "ConsistencyHead",
    "DeterministicConfig",
    "DeterministicHead",
    "DiffusionConfig",
    "DiffusionHead",
    "DistilledFlowConfig",
    "DistilledFlowHead",
    "DriftingConfig",
    "DriftingHead",
    "FlowConfig",
    "FlowHead",
    "GaussianConfig",
    "GaussianHead",
    "GenerativeHead",
    "HasCurriculum",
    "HasLogProb",
    "HasLossWithSample",
    "HeadLoss",
    "MeanFlowConfig",
    "MeanFlowHead",
    "MixtureConfig",
    "MixtureHead",
    "Objective",
    "Reformulation",
    "ShortcutConfig",
    "ShortcutHead",
    "TanhGaussianConfig",
    "TanhGaussianHead",
    "TimeError",
]
