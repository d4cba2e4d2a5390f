"""Run the IQL cases, with either of the reference's actor losses (AWR, DDPG+BC)."""

from typing import Any

import torch
from torch import Tensor

from genpolicy import Agent
from genpolicy.policies.advantage_weighted import AdvantageWeightedDraws
from genpolicy.policies.q_gradient import QGradientDraws
from tests.parity import updates
from tests.parity.cases import Case
from tests.parity.gaussian import actor_options, actor_parameters


def check_updates(case: Case) -> None:
    """Intermediate values, losses, gradients, parameters after one and three updates, and acting."""
    check_expected(case)
    agent = make(case)
    updates.check_gradients(case, agent, *inputs(agent, case), parameters)
    updates.check_three_updates(case, make(case), draws_of, parameters, losses)
    updates.check_acting(case, lambda temperature: make(case, temperature))


def is_weighted(case: Case) -> bool:
    return case.info["hyperparameters"]["actor_loss"] == "awr"


def make(case: Case, temperature: float = 1.0) -> Agent:
    given = case.info["hyperparameters"]
    options = actor_options(case) | {"critic.expectile": given["expectile"]}
    if is_weighted(case):
        options["policy.inverse_temperature"] = given["alpha"]
    else:
        options |= {
            "policy": "q_gradient",
            "policy.acting": "single",
            "policy.improve": "mode" if given["const_std"] else "sample",
            "policy.q_agg": "min",
            "policy.bc_weight": given["alpha"],
            "policy.bound_weight": 0.0,
        }
    return updates.make(case, "iql", options | {"policy.temperature": temperature}, parameters)


def parameters(case: Case, prefix: str) -> dict[str, Tensor]:
    return updates.with_prefix("policy.head.", actor_parameters(case, prefix)) | updates.critics(case, prefix)


def draws_of(case: Case, prefix: str) -> dict[str, Any]:
    if is_weighted(case):
        return {"policy": AdvantageWeightedDraws((), ()), "critic": ()}
    noise = next(iter(case.group(prefix).values()), ())  # at most one array: the actor's, unless it takes the mean
    return {"policy": QGradientDraws((), noise), "critic": ()}


def inputs(agent: Agent, case: Case) -> tuple:
    return updates.inputs(agent, case, draws_of)


def losses(agent: Agent, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {
        "actor_loss": metrics["policy/loss"],
        "critic_loss": metrics["critic/q_loss"],
        "value_loss": metrics["critic/value_loss"],
    }
    if "policy/q_loss" in metrics:
        found |= {
            "q_loss": metrics["policy/q_loss"],
            "bc_loss": metrics["policy/bc_weight"] * metrics["policy/bc_loss"],
        }
    return found


def critic_values(agent: Agent, batch) -> dict[str, Tensor]:
    """What IQL's and IFQL's cases hold of the critic."""
    critic = agent.critic
    found = {
        "q": critic.q(batch.features, batch.actions),
        "target_qs": critic.target_q(batch.features, batch.actions),
        "v": critic.value(batch.features),
        "next_v": critic.value(batch.next_features),
    }
    found["value_target"] = found["target_qs"].amin(0)
    found["value_adv"] = found["value_target"] - found["v"]
    expectile = agent.critic.config.expectile
    found["expectile_weight"] = torch.where(found["value_adv"] < 0, 1 - expectile, expectile)
    found["target_q"] = batch.rewards + batch.discounts * batch.masks * found["next_v"]
    return found


@torch.no_grad()
def check_expected(case: Case) -> None:
    agent = make(case)
    batch, draws = inputs(agent, case)
    of_parts, metrics, _ = agent.losses(batch, draws)
    policy, critic, head = agent.policy, agent.critic, agent.policy.head
    mean, log_std = head.distribution(batch.features)
    found = critic_values(agent, batch) | losses(agent, metrics)
    found |= {
        "total_loss": of_parts["policy"] + of_parts["critic"],
        "actor_mean": mean,
        "actor_log_std": log_std,
        "log_prob": head.log_prob(batch.features, batch.actions),
    }
    if is_weighted(case):
        adv = policy.advantage(batch, critic, ())
        found |= {"awr_qs": critic.q(batch.features, batch.actions), "awr_v": critic.value(batch.features), "adv": adv}
        exponent = policy.config.inverse_temperature * adv
        found["exp_adv_unclipped"] = exponent.clamp(max=80).exp()
        found["awr_weight"] = exponent.exp().clamp(max=policy.config.max_weight)
    else:
        noise = torch.zeros_like(batch.actions) if policy.at_mode else draws["policy"].noise
        unclipped = head.sample(batch.features, noise)
        found |= {"actor_actions_unclipped": unclipped, "actor_actions": unclipped.clamp(-1, 1)}
        found["actor_qs"] = critic.q(batch.features, found["actor_actions"])
        found["actor_q"] = found["actor_qs"].amin(0)
    updates.check_found(case, found)
