"""One source of truth for configuration: part dataclasses, recipes, presets, tuned rows and overrides in one tree.

Precedence, weakest first: part defaults < the published treatment of images (tasks with pixels) < the task's published
lengths (with preset=paper) < recipe (``algorithms/NAME.yaml``) < the task's published discount < tuned row
(``algorithms/tuned.csv``) < preset < command line. A layer that names another part (``head=gaussian``) starts from
that part's defaults; a backbone that stands in the old part is kept if the new part has a place for one, so that an
ablation along one axis holds the others.

Override strings follow Hydra's grammar, and `store_in_hydra` puts every part's dataclass into Hydra's ConfigStore for
applications of their own. The tree is composed here and not by `hydra.compose`, so that `make_agent` works inside
somebody's Hydra application and a part can be exchanged by a later layer.
"""

import dataclasses
import pickle
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Literal

from genpolicy.compatibility import Parts, check_parts
from genpolicy.critics.base import CriticConfig
from genpolicy.critics.td import TDConfig
from genpolicy.data.tasks import get_task
from genpolicy.errors import ConfigError, suggest
from genpolicy.heads.meanflow import MeanFlowConfig
from genpolicy.options import Options, describe_type, option, slot, type_hints
from genpolicy.policies.base import PolicyConfig
from genpolicy.policies.q_gradient import QGradientConfig
from genpolicy.recipes import Tree, load_recipe, read_yaml, tuned_overrides
from genpolicy.registry import BACKBONES, CRITICS, ENCODERS, HEADS, POLICIES, Registry
from genpolicy.training.agent import AgentConfig
from genpolicy.training.online import OnlineConfig

REGISTRIES: dict[str, Registry] = {
    registry.kind: registry for registry in (HEADS, CRITICS, POLICIES, BACKBONES, ENCODERS)
}
"""The registry of every part that a configuration names, by kind."""

PIXELS: Tree = {"encoder": "impala_small", "data": {"frame_stack": 3, "crop_probability": 0.5}}
"""How the FQL paper (arXiv:2502.02538, appendix E) treats tasks with images."""


@dataclass(frozen=True)
class TrainerConfig(Options):
    """How long and how often; an interval of 0 turns the thing off.

    A step is an update on the dataset or, in the online phase, a step in the environment with its updates.
    """

    steps: int = option(1_000_000, "updates of the whole objective on the dataset", minimum=0)
    pretrain_steps: int = option(0, "updates before them that fit the head only", minimum=0)
    online_steps: int = option(0, "environment steps after them, with updates as `online` says", minimum=0)
    batch_size: int = option(256, "transitions per update", minimum=1)
    log_every: int = option(5_000, "steps between two lines of train.jsonl", minimum=0)
    eval_every: int = option(
        100_000, "steps between two evaluations in the simulator; each phase also ends with one", minimum=0
    )
    eval_episodes: int = option(50, "episodes per evaluation", minimum=1)
    eval_workers: int = option(2, "simulator processes", minimum=1)
    checkpoint_every: int = option(100_000, "steps between two checkpoints", minimum=0)
    compile: bool | None = option(None, "compile the update; null: if the run is long enough to pay for compiling")
    matmul_precision: Literal["highest", "high", "medium"] = option(
        "highest",
        "products of float32 matrices: highest, in float32; high, in TF32; medium, in bf16, on devices that have them",
    )
    threads: int | None = option(None, "threads of arithmetic; null: as torch chooses", minimum=1)


@dataclass(frozen=True)
class DataConfig(Options):
    """Where the data comes from and how it is prepared."""

    dir: str | None = option(
        None, "directory of dataset files; null: ~/.ogbench/data, ~/.d4rl/datasets or ~/.minari/datasets"
    )
    path: str | None = option(
        None,
        "file, Minari folder or folder of numbered OGBench files to read in place of the task's own; "
        "without a task, data of your own",
    )
    environment: str | None = option(
        None,
        "Gymnasium id (MODULE:ID imports MODULE first) that data of your own or of Minari are scored in; "
        "null: the one that the data name, else there is no evaluation",
    )
    backend: Literal["files", "d4rl"] = option(
        "files", "files: HDF5 files and today's simulators; d4rl: an installed legacy d4rl package (D4RL tasks only)"
    )
    success_timing: Literal["post", "pre"] = option(
        "post",
        "when OGBench's environments judge a step: post, its next state (OGBench 1.1, published results); "
        "pre, its state (1.2)",
    )
    normalize_observations: bool = option(False, "standardise observations by the training set's mean and deviation")
    action_chunk: int = option(
        1,
        "h, consecutive actions that head and critic treat as one and that are executed open loop; "
        "returns then sum at least h steps",
        minimum=1,
    )
    frame_stack: int = option(
        1, "latest observations that are seen together, along the last axis; an episode's first is repeated", minimum=1
    )
    crop_probability: float = option(
        0.0, "share of batches whose images are moved by a random crop (DrQ); 0 for vectors", minimum=0, maximum=1
    )
    crop_padding: int = option(3, "pixels by which a crop moves an image at most", minimum=1)


@dataclass(frozen=True)
class LoggingConfig(Options):
    """Where metrics go besides train.jsonl and eval.jsonl."""

    tensorboard: bool = option(False, "write TensorBoard events into the run directory")
    wandb: Literal["disabled", "offline", "online"] = option("disabled", "log to Weights & Biases")
    wandb_project: str = option("genpolicy", "its project")


@dataclass(frozen=True)
class RunConfig(Options):
    """Everything that determines a run."""

    algorithm: str = option("meanflow_ql", "recipe: a name of `genpolicy list algorithms`, or the path of a YAML file")
    task: str | None = option(None, "task: a name of `genpolicy list tasks`")
    preset: Literal["paper", "small", "smoke"] = option("paper", "sizes and lengths: published, laptop, seconds")
    seed: int = option(0, "seed of parameters, data order, noise and evaluation", minimum=0, maximum=2**63 - 1)
    seeds: int = option(
        1, "number of runs: one for each of seed, seed + 1, ..., in folders seedN of run_dir", minimum=1
    )
    vectorize: bool = option(False, "train the runs of all seeds together, as one batched computation")
    device: str = option("cpu", "torch device")
    run_dir: str | None = option(None, "run directory; null: runs/ALGORITHM/TASK/TIME-seedN")
    resume: str | None = option(None, "run directory to go on with")
    head: Options = slot("head", MeanFlowConfig(), "how actions are generated")
    critic: CriticConfig | None = slot("critic", TDConfig(), "how values are learned; null for none")
    policy: PolicyConfig = slot("policy", QGradientConfig(), "how the critic improves the head")
    encoder: Options | None = slot("encoder", None, "how each network sees images; null for vectors")
    agent: AgentConfig = option(AgentConfig(), "optimisers")
    trainer: TrainerConfig = option(TrainerConfig(), "lengths and intervals")
    online: OnlineConfig = option(OnlineConfig(), "the online phase, if trainer.online_steps is above 0")
    data: DataConfig = option(DataConfig(), "dataset")
    logging: LoggingConfig = option(LoggingConfig(), "loggers")


def offline_steps(config: RunConfig) -> int:
    """Updates on the dataset, before the online phase."""
    return config.trainer.pretrain_steps + config.trainer.steps


def online_updates(config: RunConfig) -> int:
    """Updates of the online phase."""
    learning = max(config.trainer.online_steps - config.online.random_steps, 0)
    return learning * config.online.updates_per_step


def schedule_steps(config: RunConfig) -> int:
    """The horizon of schedules: the offline phase (they stay at their end online), or else the online one."""
    return offline_steps(config) or online_updates(config)


def uses_dataset(config: RunConfig) -> bool:
    """Whether any batch is drawn from the task's dataset."""
    return offline_steps(config) > 0 or config.trainer.online_steps == 0 or config.online.sampling != "online"


def compose(overrides: Sequence[str] = ()) -> RunConfig:
    """Compose a configuration from override strings.

    Args:
        overrides: as on the command line, ``["algorithm=bc", "head.time_steps=50", "critic.hidden_dims=[256,256]"]``.

    Raises:
        ConfigError: for an override that cannot be parsed, an unknown key or name (with the nearest ones), a value of
            the wrong type or out of range, or parts that do not fit together.
    """
    return build(compose_tree(overrides))


def compose_tree(overrides: Sequence[str] = ()) -> Tree:
    """Compose the tree of plain values that `build` checks and turns into a `RunConfig`."""
    given = parse_overrides(overrides)
    chosen = dict(given)
    algorithm = str(chosen.get("algorithm", RunConfig.algorithm))
    recipe = load_recipe(algorithm)
    preset = chosen.get("preset", RunConfig.preset)
    presets = recipe.pop("presets", None) or {}
    if not (isinstance(presets, Mapping) and all(isinstance(layer, Mapping) for layer in presets.values())):
        raise ConfigError(
            f"presets of {algorithm} must be a mapping of names to mappings, as in presets: {{small: {{...}}}}."
        )
    presets = {"paper": {}, **presets}
    if not isinstance(preset, str) or preset not in presets:
        raise ConfigError(
            f"Unknown preset '{preset}'.{suggest(str(preset), presets)} This algorithm has: {', '.join(presets)}."
        )
    recipe.pop("about", None)
    tree = _defaults(RunConfig)
    task = get_task(str(name)) if (name := chosen.get("task", recipe.get("task"))) is not None else None
    if task and task.pixels:
        _merge(tree, RunConfig, PIXELS, "")
    _merge(tree, RunConfig, recipe, "")
    # A part is exchanged before its fields are set, whatever the order on the command line.
    given.sort(key=lambda pair: (not _names_part(pair[0]), pair[0].count(".")))
    layers = [presets[preset], *(_nest(*pair) for pair in given)]
    if task:
        said = _said_of_trainer(recipe, *layers)
        online = bool(said.get("online_steps", TrainerConfig.online_steps))
        tuned = tuned_overrides(algorithm, task.alias_of or task.name, online=online)
        layers = [*(_nest(*pair) for pair in parse_overrides(tuned)), *layers]
        if preset == "paper":
            published = {key: value for key, value in task.protocol.lengths(online=online).items() if key not in said}
            _merge(tree, RunConfig, {"trainer": published}, "")
    for layer in layers:
        _merge(tree, RunConfig, layer, "")
    # After the critic is chosen: each one has the task's discount unless a layer above says otherwise.
    critics = [layer["critic"] for layer in layers if isinstance(layer.get("critic"), Mapping)]
    if task and tree["critic"] is not None and not any("discount" in layer for layer in critics):
        tree["critic"]["discount"] = task.discount
    return tree


def parse_overrides(overrides: Iterable[str]) -> list[tuple[str, Any]]:
    """Parse ``key=value`` strings by Hydra's grammar into (key, value) pairs.

    Raises:
        ConfigError: for text that is not an override, a deletion, or a sweep.
    """
    return [(parsed.key_or_group.replace("/", "."), parsed.value()) for parsed in map(_parse_override, overrides)]


@lru_cache(maxsize=10_000)
def _parse_override(text: str) -> Any:
    """Hydra's `Override` of a text; parsing one takes as long as composing a configuration."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key, _, value = text.partition("=")
    try:  # the grammar knows no ~, and shells leave it here
        parsed = OverridesParser.create().parse_override(f"{key}='{value}'" if value.startswith("~/") else text)
    except HydraException as error:
        raise ConfigError(
            f"Cannot read the override '{text}'. Write key=value, as in head.time_steps=50; "
            "quote a value with special characters: 'key=\"a b\"'."
        ) from error
    if parsed.is_delete() or parsed.is_sweep_override():
        raise ConfigError(f"The override '{text}' deletes or sweeps; give one value: key=value.")
    return parsed


def build(tree: Mapping[str, Any]) -> RunConfig:
    """Check a tree of plain values and turn it into a `RunConfig`.

    Raises:
        ConfigError: naming the field, its value and what is allowed.
    """
    config = _build(RunConfig, tree, "")
    if config.device.partition(":")[0] not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"device is '{config.device}'; use cpu, cuda, cuda:0 or mps.")
    if config.data.normalize_observations and not uses_dataset(config):
        raise ConfigError(
            "data.normalize_observations needs the dataset, but this run learns from online transitions alone. "
            "Leave it out, or choose online.sampling=append or balanced."
        )
    check_parts(Parts.of(config.head, config.critic, config.policy))
    return config


def to_tree(options: Options) -> Tree:
    """Turn options back into the tree that `build` reads; parts carry their "name"."""
    tree: Tree = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if isinstance(value, Options):
            kind = field.metadata.get("slot")
            name = {"name": REGISTRIES[kind].find(value).name} if kind else {}
            tree[field.name] = name | to_tree(value)
        else:
            tree[field.name] = list(value) if isinstance(value, tuple) else value
    return tree


def to_yaml(config: RunConfig) -> str:
    """The whole configuration as YAML; `from_yaml` reads it back."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(to_tree(config)))


def from_yaml(text: str) -> RunConfig:
    """Read what `to_yaml` wrote.

    Raises:
        ConfigError: for text that is not such a configuration.
    """
    tree = _defaults(RunConfig)
    _merge(tree, RunConfig, read_yaml(text, "the configuration"), "")
    return build(tree)


def store_in_hydra() -> None:
    """Put every registered part's hyperparameters into Hydra's ConfigStore.

    The groups are head, critic, policy, encoder and, for a part with a backbone, head/backbone and so on, so that a
    Hydra application of yours can write ``defaults: [{head: meanflow}]``.
    """
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    for kind in ("head", "critic", "policy", "encoder"):
        for entry in REGISTRIES[kind].entries():
            node: Tree = {"name": entry.name} | _defaults(entry.config)
            slots = [field for field in dataclasses.fields(entry.config) if "slot" in field.metadata]
            # The part in a slot is a choice of its own group, so that exchanging it leaves nothing of the old one.
            node["defaults"] = [{field.name: node.pop(field.name)["name"]} for field in slots] + ["_self_"]
            store.store(group=kind, name=entry.name, node=node)
            for field in slots:
                for part in REGISTRIES[field.metadata["slot"]].entries():
                    node = {"name": part.name} | _defaults(part.config)
                    store.store(group=f"{kind}/{field.name}", name=part.name, node=node)


# The tree


def _defaults(cls: type[Options]) -> Tree:
    return pickle.loads(_pickled_defaults(cls))


@cache
def _pickled_defaults(cls: type[Options]) -> bytes:
    return pickle.dumps(to_tree(cls()))


def _nest(key: str, value: Any) -> Tree:
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


def _said_of_trainer(*layers: Mapping[str, Any]) -> Tree:
    """What layers say of the trainer, the last one winning; where one is no mapping, `_merge` will complain."""
    said: Tree = {}
    for layer in layers:
        if isinstance(trainer := layer.get("trainer"), Mapping):
            said |= trainer
    return said


def _names_part(key: str) -> bool:
    return key in ("head", "critic", "policy", "encoder") or key.endswith((".backbone", ".name"))


def _merge(tree: Tree, cls: type[Options], layer: Mapping[str, Any], where: str) -> None:
    """Write a layer's values into the tree, checking keys; parts are exchanged where the layer names another."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key, value in layer.items():
        path = f"{where}{key}"
        if key == "name" and "name" in tree:
            continue
        if key not in fields:
            raise ConfigError(f"Unknown key '{path}'.{suggest(str(key), fields)} Known keys here: {', '.join(fields)}.")
        field = fields[key]
        if kind := field.metadata.get("slot"):
            tree[key] = _merge_part(tree[key], REGISTRIES[kind], value, path)
        elif isinstance(field.default, Options):
            if not isinstance(value, Mapping):
                names = ", ".join(f"{path}.{inner.name}" for inner in dataclasses.fields(field.default))
                raise ConfigError(f"'{path}' is a group of keys, not a value. Set one of: {names}.")
            _merge(tree[key], type(field.default), value, f"{path}.")
        elif isinstance(value, Mapping):
            raise ConfigError(f"'{path}' is a single value ({_type_of(cls, key)}); it has no keys below it.")
        else:
            tree[key] = value


def _merge_part(old: Tree | None, registry: Registry, value: Any, path: str) -> Tree | None:
    if value is None or value == "none":
        return None
    layer = dict(value) if isinstance(value, Mapping) else {"name": value}
    name = layer.pop("name", None) or (old or {}).get("name")
    if name is None:
        raise ConfigError(f"'{path}' is null; name a part first, as in {path}={registry.names()[0]}.")
    entry = registry[str(name)]
    tree = old
    if tree is None or tree["name"] != name:
        tree = {"name": name} | _defaults(entry.config)
        for field in dataclasses.fields(entry.config):
            kept = (old or {}).get(field.name)
            if "slot" in field.metadata and kept is not None:
                tree[field.name] = kept
    _merge(tree, entry.config, layer, f"{path}.")
    return tree


def _build(cls: type[Options], tree: Mapping[str, Any], where: str) -> Any:
    """Check values and make the dataclass; a group that is built often, as the cells of a suite do, is made once."""
    known = (cls, repr(tree))
    if known in _BUILT:
        return _BUILT[known]
    values = {}
    for field in dataclasses.fields(cls):
        value, path = tree[field.name], f"{where}{field.name}"
        if kind := field.metadata.get("slot"):
            if value is None and field.name not in ("critic", "encoder"):
                raise ConfigError(f"'{path}' is null, but every run needs one: {', '.join(REGISTRIES[kind].names())}.")
            values[field.name] = value and _build(REGISTRIES[kind][value["name"]].config, value, f"{path}.")
        elif isinstance(field.default, Options):
            values[field.name] = _build(type(field.default), value, f"{path}.")
        else:
            values[field.name] = _coerce(type_hints(cls)[field.name], value)
    try:
        built = cls(**values)
    except ConfigError as error:
        raise ConfigError(str(error).replace(f"{cls.__name__}.", where)) from error
    if _is_plain(cls):
        if len(_BUILT) >= _BUILT_AT_MOST:
            _BUILT.clear()
        _BUILT[known] = built
    return built


_BUILT: dict[tuple[type[Options], str], Options] = {}
_BUILT_AT_MOST = 10_000


@cache
def _is_plain(cls: type[Options]) -> bool:
    """Whether no part stands in it: its values alone, and not what is registered, say what it is."""
    fields = dataclasses.fields(cls)
    groups = (type(field.default) for field in fields if isinstance(field.default, Options))
    return not any("slot" in field.metadata for field in fields) and all(map(_is_plain, groups))


def _coerce(hint: Any, value: Any) -> Any:
    """Lists to tuples, and numbers such as 1e6 to int where an int is asked for."""
    if isinstance(value, list):
        return tuple(value)
    wants = typing.get_args(hint) or (hint,)
    if isinstance(value, float) and int in wants and float not in wants and value.is_integer():
        return int(value)
    return value


def _type_of(cls: type[Options], key: str) -> str:
    return describe_type(type_hints(cls)[key])
