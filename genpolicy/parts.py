"""Import every built-in part, so that the registries know them."""

import genpolicy.critics.td
import genpolicy.heads.gaussian
import genpolicy.heads.meanflow
import genpolicy.networks.dit
import genpolicy.networks.mlp
import genpolicy.policies.behaviour_cloning
import genpolicy.policies.q_gradient  # noqa: F401
