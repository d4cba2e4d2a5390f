"""Run the cases of MeanFlow's reformulations: target, action and gradients of the head that a formula describes."""

import torch
from torch import Tensor

from genpolicy.heads.meanflow import MeanFlowConfig, MeanFlowDraws, MeanFlowHead
from genpolicy.networks.dit import DiTConfig
from genpolicy.registry import HEADS
from tests.parity.cases import Case, dit_from_flax

NAMES = {
    "z": "residual",
    "t": "time",
    "e": "noise",
    "t*e": "scaled_noise",
    "2*z": "double_residual",
    "2": "constant",
}


def reformulation(case: Case) -> str:
    """The name of the form whose output the case's formula writes as ``g = u`` or ``g = phi - u with phi = ...``."""
    output = case.info["formula"]["output"].replace(" ", "")
    if output.startswith("g=u("):
        return "average_velocity"
    return NAMES[output.partition("phi=")[2]]


def make_head(case: Case, target_clip: float | None = None) -> MeanFlowHead:
    given, dims, net = case.info["hyperparameters"], case.info["dims"], case.info["networks"]["net"]
    backbone = DiTConfig(
        width=given["actor_hidden_dims"],
        depth=given["actor_depth"],
        output_norm=given["use_output_layernorm"],
        time_in_token="concat(observations, actions, t" in net["input"],
    )
    config = MeanFlowConfig(
        backbone=backbone,
        reformulation=reformulation(case),
        adaptive_gamma=given["adaptive_gamma"],
        adaptive_c=given["adaptive_c"],
        target_clip=target_clip,
        two_time="r" in case.group("draws"),
    )
    head = HEADS.create(config, feature_dim=dims["obs_dim"], action_dim=dims["action_dim"])
    head.backbone.load_state_dict(dit_from_flax(head.backbone, case.group("params/net")))
    return head


def check_reformulation(case: Case) -> None:
    """Intermediate values, both losses, the one-step action, and the gradient of the loss without clipping."""
    head, expect = make_head(case), case.group("expect")
    observations, actions = case.arrays["batch/observations"], case.arrays["batch/actions"]
    draws = case.group("draws")
    terms = head.terms(observations, actions, draws["e"], draws["t"], draws.get("r"))
    form = head.reformulation
    drawn = MeanFlowDraws(draws["e"], draws["t"], r=draws.get("r", ()))
    fit = head.loss(observations, actions, drawn)
    loss = fit.per_sample.mean()
    clipped = make_head(case, target_clip=5.0).loss(observations, actions, drawn)
    action = head.sample(observations, draws["action_noise"])
    zeros, ones = torch.zeros(len(actions), 1), torch.ones(len(actions), 1)
    found: dict[str, Tensor] = {
        "z": terms.x_t,
        "v": terms.velocity,
        "g": terms.g,
        "dgdt": terms.dg_dt,
        "g_tgt": terms.target,
        "g_tgt_clipped": terms.target.clamp(-5, 5),
        "u": form.avg_velocity(terms.g, terms.x_t, draws["e"], draws["t"]),
        "mean_flow_loss": loss,
        "mean_flow_loss_with_target_clip_5": clipped.per_sample.mean(),
        "delta_sq": (terms.g - terms.target).square().mean(-1),
        "action": action,
        "action_clipped": action.clamp(-1, 1),
        "action_network_output": head.network(observations, draws["action_noise"], zeros, ones),
    }
    found["adaptive_weight"] = fit.fit / found["delta_sq"].clamp(min=1e-12)
    assert not expect.keys() - found.keys(), f"not compared: {sorted(expect.keys() - found.keys())}"
    for name, value in expect.items():
        case.check("expect", name, found[name], value)
    gradients = torch.autograd.grad(loss, list(head.backbone.parameters()))
    expected = dit_from_flax(head.backbone, case.group("grads/net"))
    for (name, _), value in zip(head.backbone.named_parameters(), gradients, strict=True):
        case.check("grads", name, value, expected[name])
