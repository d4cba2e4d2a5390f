"""Our updates of MeanFlowQL and FQL, written once more in JAX: what the same update costs there.

Each is a transcription of what our agent does with the options of its recipe (`algorithms/meanflow_ql.yaml` and
`algorithms/fql.yaml`) on vector observations: parameters as nested dictionaries, the whole update one jitted function
that may reuse its state's memory, `jax.jvp` for the MeanFlow identity, `jax.vmap` over the critic's members. Sizes and
numbers are read from the agent; an option that changes what is computed is not followed. `tests/test_jax_updates.py`
compares losses, gradients' norms, parameters and moments with ours.

`make_update` computes the same products as ours. `make_public_update` ends at the same parameters the way the authors'
code goes there (HiccupRL/MeanFlowQL at 3fab100a, seohongpark/fql at 719d0441): one loss of all parameters, target
critic included, is differentiated once and the optimiser moves them all; no memory is reused; MeanFlowQL evaluates its
consistency loss although its weight is 0, and the queries and keys of an attention over one token; FQL generates
actions once more for a metric. It is our transcription of what is computed there, not their code.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from torch import Tensor

from genpolicy import Agent
from genpolicy.batch import Batch
from genpolicy.critics.td import TDConfig, TDDraws
from genpolicy.heads.distilled_flow import DistilledFlowDraws
from genpolicy.heads.flow import FlowDraws
from genpolicy.heads.meanflow import MeanFlowDraws, MeanFlowHead
from genpolicy.policies.bc_weight import BCWeight
from genpolicy.policies.q_gradient import QGradientDraws
from genpolicy.training.optimizer import Adam

Array = jax.Array
Tree = Any
"""Parameters: dictionaries and lists of arrays."""
State = dict[str, Tree]
"""All that an update changes: "policy", "critic", "target", the optimisers' "policy_adam" and "critic_adam", "bc", and
"step"."""
Metrics = dict[str, Array]
Update = Callable[[State, Batch, Mapping[str, Any]], tuple[State, Metrics]]
Gradients = Callable[[State, Batch, Mapping[str, Any]], tuple[dict[str, Tree], Any]]
"""By the part that they move, the policy's first, with the metrics of policy and critic and the new "bc"."""

PUBLIC_HEADS = 2
"""Heads of the attention in HiccupRL/MeanFlowQL."""


# From an agent of ours


def to_jax(tree: Tree) -> Tree:
    """Copy a tree of tensors, as of `Agent.encode` and `Agent.draw`, to arrays on JAX's device."""
    return jax.tree.map(lambda tensor: jnp.array(tensor.detach().cpu().numpy()), tree)


def params_from(agent: Agent) -> dict[str, Tree]:
    """Copy the parameters of "policy" (its head), "critic" and "target"."""
    modules = {"policy": agent.policy.head, "critic": agent.critic.online, "target": agent.critic.target}
    return {part: _tree(module.named_parameters()) for part, module in modules.items()}


def state_from(agent: Agent) -> State:
    """Copy the whole state of an agent: parameters, moments, the weight's history, and counts."""
    critic_adam = _adam_from(agent.critic_optimizer, "online.")
    optimizers = {
        "policy_adam": _adam_from(agent.policy_optimizer, "head."),
        "critic_adam": critic_adam | {name: {"critic": critic_adam[name]} for name in ("first", "second")},
    }
    weight = {name: to_jax(agent.state[name]) for name in agent.policy.initial_state()}
    return params_from(agent) | optimizers | {"bc": weight, "step": to_jax(agent.state["step"])}


def public_state_from(agent: Agent) -> State:
    """As `state_from`, with the queries and keys of the authors' attention, which never move."""
    state = state_from(agent)
    if isinstance(agent.policy.head, MeanFlowHead):
        for tree, scale in (
            (state["policy"], 0.05),
            *((state["policy_adam"][name], 0.0) for name in ("first", "second")),
        ):
            _add_attention(tree, scale)
    for moments in ("first", "second"):
        of_parts = state["critic_adam"][moments]
        of_parts["target"] = jax.tree.map(jnp.zeros_like, of_parts["critic"])
    return state


def _add_attention(policy: Tree, scale: float) -> None:
    """Put one layer of queries, keys and values in the place of each block's values; the new weights are normal."""
    for key, block in enumerate(policy["backbone"]["blocks"]):
        weight, bias = (block["value"][name] for name in ("weight", "bias"))
        width = len(bias)
        made = scale * jax.random.normal(jax.random.key(key), (width, 2 * width), weight.dtype)
        block["value"] = {
            "weight": jnp.concatenate([made, weight], axis=1),
            "bias": jnp.concatenate([jnp.zeros(2 * width, bias.dtype), bias]),
        }
        for name in ("query_norm", "key_norm"):
            block[name] = {"gain": jnp.full(width // PUBLIC_HEADS, float(scale > 0), bias.dtype)}


def _adam_from(adam: Adam, prefix: str) -> Tree:
    names = [name.removeprefix(prefix) for name in adam.names]
    first, second = (_tree(zip(names, moments, strict=True)) for moments in (adam.first_moments, adam.second_moments))
    return {"count": to_jax(adam.count), "first": first, "second": second}


def _tree(named: Iterable[tuple[str, Tensor]]) -> Tree:
    """Nest tensors by the parts of their names; matrices become (in, out)."""
    tree: dict[str, Any] = {}
    for name, tensor in named:
        *path, last = name.split(".")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[last] = to_jax(tensor.T if tensor.ndim == 2 else tensor)
    return _with_lists(tree)


def _with_lists(node: Tree) -> Tree:
    if not isinstance(node, dict):
        return node
    children = {key: _with_lists(child) for key, child in node.items()}
    return list(children.values()) if all(key.isdigit() for key in children) else children


# Networks


def join(*parts: Array) -> Array:
    batch = jnp.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return jnp.concatenate([jnp.broadcast_to(part, (*batch, part.shape[-1])) for part in parts], axis=-1)


def dense(p: Tree, x: Array) -> Array:
    return x @ p["weight"] + p["bias"]


def layer_norm(p: Tree, x: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + 1e-6) * p["weight"] + p["bias"]


def mlp(layers: Tree, x: Array) -> Array:
    *hidden, last = layers
    for layer in hidden:
        x = jax.nn.gelu(dense(layer, x))
    return dense(last, x)


def q_values(p: Tree, features: Array, action: Array) -> Array:
    """Every member's value, (E, ...)."""

    def member(p: Tree, x: Array) -> Array:
        *hidden, last = p["linears"]
        for layer, norm in zip(hidden, p["norms"], strict=True):
            x = layer_norm(norm, jax.nn.gelu(dense(layer, x)))
        return dense(last, x)[..., 0]

    return jax.vmap(member, in_axes=(0, None))(p, join(features, action))


def dit(p: Tree, frequencies: Array, features: Array, x: Array, t: Array) -> Array:
    """The single-token transformer; a time (1, 1) is shared by all rows."""
    token = dense(p["embed"], join(features, x)) + p["position"]
    angles = t * frequencies
    first, second = p["times"][0]["layers"]
    time = jax.nn.silu(dense(first, jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)))
    condition = jax.nn.silu(dense(second, time))
    for block in p["blocks"]:
        token = token + 0.1 * (dit_block(block, token, condition) - token)
    shift, scale = jnp.split(dense(p["final_modulation"], condition), 2, axis=-1)
    return dense(p["final"], rms_norm(p["final_norm"], token) * (1 + scale) + shift)


def dit_block(p: Tree, x: Array, condition: Array) -> Array:
    shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(dense(p["modulation"], condition), 6, axis=-1)
    h = rms_norm(p["attention_norm"], x) * (1 + scale1) + shift1
    y = x + gate1 * dense(p["attention_out"], attended(p, h))
    h = rms_norm(p["mlp_norm"], y) * (1 + scale2) + shift2
    return y + gate2 * mlp(p["mlp"], h)


def attended(p: Tree, x: Array) -> Array:
    """The values; where there are queries and keys, weighted by a softmax over the one token there is."""
    if "query_norm" not in p:
        return dense(p["value"], x)
    joint = dense(p["value"], x)
    split = joint.reshape(*x.shape[:-1], 3, PUBLIC_HEADS, 1, -1)
    queries, keys, values = (split[..., i, :, :, :] for i in range(3))
    queries, keys = rms_norm(p["query_norm"], queries), rms_norm(p["key_norm"], keys)
    scores = queries @ keys.swapaxes(-1, -2) / math.sqrt(keys.shape[-1])
    return (jax.nn.softmax(scores, axis=-1) @ values).reshape(x.shape)


def rms_norm(p: Tree, x: Array) -> Array:
    inverse_rms = jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)
    return x * inverse_rms * (p["gain"] * p["gain"].size ** 0.5)


# Updates


def make_update(agent: Agent) -> Update:
    """Make the jitted update of a MeanFlowQL or FQL agent.

    It takes a state (whose memory it may reuse: the argument is gone afterwards), a batch and draws, both from ours by
    `to_jax`, and returns the new state and all metrics of our update.
    """
    return jax.jit(_update_of(agent), donate_argnums=0)


def make_public_update(agent: Agent) -> Update:
    """Make the jitted update in the authors' arrangement; its state comes from `public_state_from`, its draws from
    `public_draws`."""
    return jax.jit(_update_of(agent, public=True))


def make_drawing_update(
    agent: Agent, *, public: bool = False
) -> Callable[[State, Array, Batch], tuple[State, Array, Metrics]]:
    """Make the jitted update that draws its random numbers itself, from a key that it splits and returns."""
    update, draw = _update_of(agent, public=public), make_draw(agent)

    def drawing_update(state: State, key: Array, batch: Batch) -> tuple[State, Array, Metrics]:
        key, own, extra = jax.random.split(key, 3)
        draws = draw(own, len(batch.features))
        state, metrics = update(state, batch, public_draws(draws, extra) if public else draws)
        return state, key, metrics

    return jax.jit(drawing_update, donate_argnums=() if public else (0, 1))


def public_draws(draws: Mapping[str, Any], key: Array) -> dict[str, Any]:
    """Add what the authors' updates draw beyond ours."""
    noise = draws["critic"].next_noise[0]
    of_noise, of_times = jax.random.split(key)
    times = jax.random.uniform(of_times, (2, len(noise), 1), noise.dtype)
    return dict(draws) | {"extra_noise": jax.random.normal(of_noise, noise.shape, noise.dtype), "extra_times": times}


def _update_of(agent: Agent, *, public: bool = False) -> Update:
    gradients = (_public_gradients_of if public else _gradients_of)(agent)

    def update(state: State, batch: Batch, draws: Mapping[str, Any]) -> tuple[State, Metrics]:
        grads, (policy_metrics, critic_metrics, bc) = gradients(state, batch, draws)
        policy, policy_adam, policy_step = adam_step(
            agent.policy_optimizer, state["policy"], state["policy_adam"], grads.pop("policy")
        )
        critics, critic_adam, critic_step = adam_step(
            agent.critic_optimizer, {part: state[part] for part in grads}, state["critic_adam"], grads
        )
        followed = state["critic"] if agent.config.target_update == "before_step" else critics["critic"]
        rate = agent.critic.config.ema_rate
        metrics = _named("policy", policy_metrics | policy_step) | _named("critic", critic_metrics | critic_step)
        return {
            "policy": policy,
            "critic": critics["critic"],
            "target": jax.tree.map(
                lambda old, new: old + rate * (new - old), critics.get("target", state["target"]), followed
            ),
            "policy_adam": policy_adam,
            "critic_adam": critic_adam,
            "bc": bc,
            "step": state["step"] + 1,
        }, metrics

    return update


def _gradients_of(agent: Agent) -> Gradients:
    policy_loss, sample = _losses_of(agent)

    def gradients(state: State, batch: Batch, draws: Mapping[str, Any]) -> tuple[dict[str, Tree], Any]:
        policy_grad, (policy_metrics, bc) = jax.grad(policy_loss, has_aux=True)(
            state["policy"], state["critic"], state, batch, draws
        )
        next_action = jnp.clip(sample(state["policy"], batch.next_features, draws["critic"].next_noise), -1, 1)
        target = td_target(agent.critic.config, state["target"], batch, next_action)
        critic_grad, critic_metrics = jax.grad(critic_loss, has_aux=True)(state["critic"], batch, target)
        return {"policy": policy_grad, "critic": critic_grad}, (policy_metrics, critic_metrics, bc)

    return gradients


def _public_gradients_of(agent: Agent) -> Gradients:
    policy_loss, sample = _losses_of(agent, public=True)

    def gradients(state: State, batch: Batch, draws: Mapping[str, Any]) -> tuple[dict[str, Tree], Any]:
        def total_loss(params: Tree) -> tuple[Array, Any]:
            next_action = jnp.clip(sample(state["policy"], batch.next_features, draws["critic"].next_noise), -1, 1)
            target = td_target(agent.critic.config, state["target"], batch, next_action)
            of_critic, critic_metrics = critic_loss(params["critic"], batch, target)
            of_policy, (policy_metrics, bc) = policy_loss(params["policy"], state["critic"], state, batch, draws)
            return of_critic + of_policy, (policy_metrics, critic_metrics, bc)

        return jax.grad(total_loss, has_aux=True)({part: state[part] for part in ("policy", "critic", "target")})

    return gradients


def _losses_of(agent: Agent, *, public: bool = False) -> tuple[Callable, Callable]:
    """The policy's loss, and the sampling of actions without gradient."""
    return (_meanflow_ql if isinstance(agent.policy.head, MeanFlowHead) else _fql)(agent, public=public)


def operations(update: Update, *arguments: Any) -> int:
    """Count the operations of all products of matrices in an update, two per multiply-add."""
    return _operations(jax.make_jaxpr(update)(*arguments).jaxpr)


def _operations(jaxpr: Any) -> int:
    count = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, out = equation.invars[0].aval, equation.outvars[0].aval
            count += 2 * out.size * math.prod(left.shape[axis] for axis in contracted)
        for parameter in equation.params.values():
            count += _operations(parameter.jaxpr) if hasattr(parameter, "jaxpr") else 0
    return count


def td_target(config: TDConfig, target: Tree, batch: Batch, next_action: Array) -> Array:
    """The bootstrapped return by the best of N next actions (N, B, A)."""
    qs = q_values(target, batch.next_features, next_action)
    best = qs.mean(0).argmax(0)
    chosen = jnp.take_along_axis(qs, best[None, None], axis=1)[:, 0]
    value = chosen.min(0) if config.q_agg == "min" else chosen.mean(0)
    return batch.rewards + batch.discounts * batch.masks * value


def critic_loss(critic: Tree, batch: Batch, target: Array) -> tuple[Array, Metrics]:
    q = q_values(critic, batch.features, batch.actions)
    loss = jnp.square(q - target).mean()
    metrics = {"loss": loss, "q_mean": q.mean(), "q_min": q.min(), "q_max": q.max(), "target_mean": target.mean()}
    return loss, metrics


def adam_step(adam: Adam, params: Tree, state: Tree, grads: Tree) -> tuple[Tree, Tree, Metrics]:
    config = adam.config
    norm = jnp.sqrt(sum(jnp.square(grad).sum() for grad in jax.tree.leaves(grads)))
    if config.max_grad_norm is not None:
        factor = jnp.minimum(config.max_grad_norm / norm, 1.0)
        grads = jax.tree.map(lambda grad: grad * factor, grads)
    rate = learning_rate(adam, state["count"])
    count = state["count"] + 1
    first = jax.tree.map(lambda old, grad: old + (1 - config.beta1) * (grad - old), state["first"], grads)
    second = jax.tree.map(
        lambda old, grad: config.beta2 * old + (1 - config.beta2) * jnp.square(grad), state["second"], grads
    )
    size = rate / (1 - config.beta1**count)
    root = jnp.sqrt(1 - config.beta2**count)
    params = jax.tree.map(lambda p, m, v: p - size * m / (jnp.sqrt(v) / root + config.eps), params, first, second)
    return params, {"count": count, "first": first, "second": second}, {"grad_norm": norm, "learning_rate": rate}


def learning_rate(adam: Adam, count: Array) -> Array:
    config = adam.config
    if config.schedule == "constant":
        return jnp.asarray(config.learning_rate)
    warmup, low = int(config.warmup_fraction * adam.total_steps), config.min_ratio * config.learning_rate
    progress = jnp.clip((count - warmup) / max(adam.total_steps - warmup, 1), 0.0, 1.0)
    decayed = low + (config.learning_rate - low) * 0.5 * (1 + jnp.cos(jnp.pi * progress))
    return jnp.where(count <= warmup, config.learning_rate * count / warmup, decayed) if warmup else decayed


def _meanflow_ql(agent: Agent, *, public: bool) -> tuple[Callable, Callable]:
    head, config = agent.policy.head.config, agent.policy.config
    frequencies = to_jax(agent.policy.head.backbone.times[0].features.frequencies)

    def network(policy: Tree, features: Array, x: Array, t: Array) -> Array:
        return dit(policy["backbone"], frequencies, features, x, t)

    def sample(policy: Tree, features: Array, noise: Array) -> Array:
        return network(policy, features, noise, jnp.ones((1,) * noise.ndim, noise.dtype))

    def consistency_loss(policy: Tree, old: Tree, batch: Batch, draws: Mapping[str, Any]) -> Array:
        def jump(params: Tree, t: Array) -> Array:
            x_t = (1 - t) * batch.actions + t * draws["extra_noise"]
            return x_t - t * (x_t - network(params, batch.features, x_t, t))

        first, second = draws["extra_times"]
        return jnp.square(jump(policy, first) - jax.lax.stop_gradient(jump(old, second))).mean()

    def loss(policy: Tree, critic: Tree, state: State, batch: Batch, draws: Mapping[str, Any]) -> tuple[Array, Any]:
        own: QGradientDraws = draws["policy"]
        noise, t = own.head.noise, own.head.t
        x_t, velocity = (1 - t) * batch.actions + t * noise, noise - batch.actions
        g, dg_dt = jax.jvp(
            lambda x_t, t: network(policy, batch.features, x_t, t), (x_t, t), (velocity, jnp.ones_like(t))
        )
        dg_dt = jax.lax.stop_gradient(dg_dt)
        target = jnp.clip(x_t + (t - 1) * velocity - t * dg_dt, -head.target_clip, head.target_clip)
        error = jnp.maximum(jnp.square(g - target).mean(-1), 1e-12)
        power = jnp.maximum((jax.lax.stop_gradient(error) + head.adaptive_c) ** (1 - head.adaptive_gamma), 1e-12)
        bc_loss = (jnp.clip(1 / power, 1e-6, 1e6) * error).mean()
        weight, bc = adaptive_weight(agent.policy.bc_weight, jax.lax.stop_gradient(bc_loss), state)

        action = sample(policy, batch.features, own.noise)
        bound_loss = jax.nn.relu(action - 1).mean() + jax.nn.relu(-1 - action).mean()
        q = q_values(critic, batch.features, jnp.clip(action, -1, 1)).mean(0)
        scale = 1 / jnp.maximum(jnp.abs(jax.lax.stop_gradient(q)).mean(), 1e-6)
        q_loss = -scale * q.mean()

        total = q_loss + config.bound_weight * bound_loss + weight * bc_loss
        metrics = {
            "loss": total,
            "q_loss": q_loss,
            "bound_loss": bound_loss,
            "bc_loss": bc_loss,
            "bc_weight": weight,
            "q": q.mean(),
            "head/mean_flow_loss": bc_loss,
            "head/regression_error": error.mean(),
            "head/velocity_error": jnp.square(x_t - g - velocity).mean(),
            "head/dg_dt_norm": jnp.sqrt(jnp.square(dg_dt).mean()),
        }
        if public:
            metrics["head/consistency_loss"] = consistency_loss(policy, state["policy"], batch, draws)
            total = total + 0.0 * metrics["head/consistency_loss"]
        return total, (metrics, bc)

    return loss, sample


def adaptive_weight(weigher: BCWeight, fit: Array, state: State) -> tuple[Array, Tree]:
    """The weight of behaviour cloning, adjusted to the history of the fit, and that history."""
    config, initial, step = weigher.config, weigher.initial, state["step"]
    weight, history, count = (state["bc"][name] for name in ("bc_weight", "bc_history", "bc_count"))
    due = (step > 0) & (step % config.interval == 0)
    active = step >= int(config.warmup_fraction * weigher.total_steps)
    recorded = jnp.arange(config.window) >= config.window - count
    average = (history * recorded).sum() / jnp.maximum(count, 1)
    comparable = due & active & (count >= 2)
    grown = jnp.minimum(weight * config.increase, config.highest * initial)
    weight = jnp.where(comparable & (fit > config.threshold * average), grown, weight)
    shrunk = jnp.maximum(weight * config.decrease, config.lowest * initial)
    weight = jnp.where(comparable & (fit < average / config.threshold), shrunk, weight)
    return weight, {
        "bc_weight": weight,
        "bc_history": jnp.where(due, jnp.append(history[1:], fit), history),
        "bc_count": jnp.where(due, jnp.minimum(count + 1, config.window), count),
    }


def _fql(agent: Agent, *, public: bool) -> tuple[Callable, Callable]:
    head, config = agent.policy.head.config, agent.policy.config

    def velocity(policy: Tree, features: Array, x: Array, t: Array) -> Array:
        return -mlp(policy["flow"]["backbone"]["layers"], join(features, x, 1 - t))

    def sample(policy: Tree, features: Array, noise: Array) -> Array:
        return mlp(policy["student"]["layers"], join(features, noise))

    def flow(policy: Tree, features: Array, noise: Array) -> Array:
        x = noise
        for i in range(head.flow_steps):
            x = x - velocity(policy, features, x, jnp.full((1, 1), 1 - i / head.flow_steps)) / head.flow_steps
        return x

    def loss(policy: Tree, critic: Tree, state: State, batch: Batch, draws: Mapping[str, Any]) -> tuple[Array, Any]:
        own: QGradientDraws = draws["policy"]
        noise, t = own.head.flow
        x_t = (1 - t) * batch.actions + t * noise
        difference = velocity(policy, batch.features, x_t, t) - (noise - batch.actions)
        flow_loss = jnp.square(difference).mean()

        noise = own.head.noise
        action = sample(policy, batch.features, noise)
        taught = jnp.clip(flow(jax.lax.stop_gradient(policy), batch.features, noise), -1, 1)
        distill_loss = jnp.square(action - taught).mean()
        bc_loss = flow_loss + head.distill_weight * distill_loss

        bound_loss = jax.nn.relu(action - 1).mean() + jax.nn.relu(-1 - action).mean()
        q = q_values(critic, batch.features, jnp.clip(action, -1, 1)).mean(0)
        q_loss = -q.mean()
        total = q_loss + config.bound_weight * bound_loss + config.bc_weight * bc_loss
        metrics = {
            "loss": total,
            "q_loss": q_loss,
            "bound_loss": bound_loss,
            "bc_loss": bc_loss,
            "bc_weight": jnp.asarray(config.bc_weight),
            "q": q.mean(),
            "head/flow_loss": flow_loss,
            "head/distill_loss": distill_loss,
        }
        if public:
            drawn = jnp.clip(sample(state["policy"], batch.features, draws["extra_noise"]), -1, 1)
            metrics["mse"] = jnp.square(drawn - batch.actions).mean()
        return total, (metrics, state["bc"])

    return loss, sample


def make_draw(agent: Agent) -> Callable[[Array, int], dict[str, Any]]:
    """Make the function of a key and n that draws what `Agent.draw` draws, by JAX's generator."""
    action_dim, candidates = agent.action_dim, agent.policy.ranked_candidates

    def draw(key: Array, n: int) -> dict[str, Any]:
        of_path, of_time, of_action, of_next = jax.random.split(key, 4)
        noise, t = jax.random.normal(of_path, (n, action_dim)), jax.random.uniform(of_time, (n, 1))
        own = jax.random.normal(of_action, (n, action_dim))
        meanflow = QGradientDraws(MeanFlowDraws(noise, t), own)
        fql = QGradientDraws(DistilledFlowDraws(FlowDraws(noise, t), own), ())
        return {
            "policy": meanflow if isinstance(agent.policy.head, MeanFlowHead) else fql,
            "critic": TDDraws(jax.random.normal(of_next, (candidates, n, action_dim))),
        }

    return draw


def _named(part: str, metrics: Metrics) -> Metrics:
    return {f"{part}/{name}": value for name, value in metrics.items()}
