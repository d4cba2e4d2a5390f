"""Hyperparameters of the MeanFlow head."""

from dataclasses import dataclass
from typing import Literal

from genpolicy.errors import ConfigError
from genpolicy.heads.objectives import OBJECTIVES
from genpolicy.heads.reformulations import REFORMULATIONS
from genpolicy.networks.dit import DiTConfig
from genpolicy.options import Options, option, slot


@dataclass(frozen=True)
class MeanFlowConfig(Options):
    """Hyperparameters of the MeanFlow head; the defaults are those of HiccupRL/MeanFlowQL."""

    backbone: Options = slot("backbone", DiTConfig(), "the network g(features, x_t, t)")
    reformulation: str = option("residual", "what the network predicts; see `genpolicy list reformulations`")
    time_steps: int | None = option(
        None,
        "T: times lie on the grid {1/T, ..., 1}; null draws them from [0, 1]",
        minimum=1,
    )
    noise: Literal["gaussian", "uniform"] = option("gaussian", "law of the noise: N(0, noise_scale^2) or U(-1, 1)")
    noise_scale: float = option(1.0, "standard deviation of Gaussian noise (uniform noise is not scaled)", above=0)
    adaptive_gamma: float = option(0.8, "weight 1 / (error + adaptive_c)^(1 - adaptive_gamma); 1 turns it off")
    adaptive_c: float = option(1e-4, "added to the error inside the adaptive weight", minimum=0)
    target_clip: float | None = option(5.0, "regression targets are clipped to [-c, c]; null leaves them", above=0)
    consistency_weight: float = option(0.0, "weight of the consistency term between two times", minimum=0)
    two_time: bool = option(False, "learn u(x_t, r, t) for all intervals [r, t] instead of [0, t] only")
    instant_share: float = option(0.5, "two times: share of rows with r = t, flow matching", minimum=0, maximum=1)
    sampling_steps: int = option(1, "two times: network evaluations per action, on a uniform grid of times", minimum=1)
    objective: str = option("meanflow", "how the regression target is built: meanflow, improved, split, alpha")
    curriculum_start: float = option(
        0.0, "share of training after which the objective's curriculum (alpha) begins", minimum=0, maximum=1
    )
    curriculum_end: float = option(1.0, "share of training after which it is over", minimum=0, maximum=1)
    time_law: Literal["uniform", "logit_normal"] = option("uniform", "law of the times before time_steps rounds them")
    time_mean: float = option(-0.4, "logit_normal: mean of the normal (arXiv:2505.13447 on ImageNet)")
    time_std: float = option(1.0, "logit_normal: its standard deviation", above=0)
    noise_share: float = option(0.0, "share of rows whose t is raised to 1", minimum=0, maximum=1)
    action_transform: Literal["none", "softsign", "tanh"] = option(
        "none", "generate in the action box itself, or in all of R^A and squash samples into the box"
    )
    softsign_scale: float = option(0.1, "softsign: action = y / (scale + |y|)", above=0)
    action_margin: float = option(
        0.02, "softsign, tanh: dataset actions are drawn in by this much, as +-1 lies at infinity", above=0, below=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        REFORMULATIONS[self.reformulation]  # refuses an unknown name
        objective = OBJECTIVES[self.objective].cls
        if objective.needs_two_times and not self.two_time:
            raise ConfigError(
                f"MeanFlowConfig.objective is '{self.objective}', which compares intervals of time; with "
                "two_time=false the network cannot tell them apart. Set two_time=true or objective=meanflow."
            )
        if objective.needs_instants and not self.instant_share:
            raise ConfigError(
                f"MeanFlowConfig.instant_share is 0, but the objective '{self.objective}' sees the data in rows with "
                "r = t only. Give it a share, as in instant_share=0.5."
            )
        if self.sampling_steps > 1 and not self.two_time:
            raise ConfigError(
                f"MeanFlowConfig.sampling_steps is {self.sampling_steps}, but with two_time=false the network knows "
                "the jump to the action only. Set two_time=true or sampling_steps=1."
            )
        if self.curriculum_start > self.curriculum_end:
            raise ConfigError(
                f"MeanFlowConfig.curriculum_start is {self.curriculum_start}, after curriculum_end "
                f"({self.curriculum_end}); both are shares of training, the start first."
            )
