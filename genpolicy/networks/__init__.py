"""Backbones and layers. They know nothing of heads, critics or policies."""

from genpolicy.networks.base import Backbone
from genpolicy.networks.dit import DiT, DiTConfig
from genpolicy.networks.ensemble import EnsembleMLP
from genpolicy.networks.mlp import MLP, MLPConfig

__all__ = ["MLP", "Backbone", "DiT", "DiTConfig", "EnsembleMLP", "MLPConfig"]
