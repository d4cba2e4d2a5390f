"""From a configuration to a trained run directory, and back from a run directory to its agent."""

import contextlib
import dataclasses
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from genpolicy.config import RunConfig, from_yaml, offline_steps, online_updates, to_tree, to_yaml, uses_dataset
from genpolicy.data import BatchSampler, Task, get_task, load_dataset, minari
from genpolicy.data.d4rl_catalogue import DATASETS
from genpolicy.data.dataset import TransitionDataset
from genpolicy.data.files import own_task, with_environment
from genpolicy.data.replay import EpisodeStore, ReplaySampler
from genpolicy.data.success_timing import with_success_timing
from genpolicy.data.tasks import with_legacy_d4rl
from genpolicy.envs import Evaluator, make_env
from genpolicy.envs.d4rl import require as require_environment
from genpolicy.errors import CheckpointError, ConfigError, DataError, GenpolicyError
from genpolicy.training import checkpoint as checkpoints
from genpolicy.training import provenance
from genpolicy.training.agent import Agent
from genpolicy.training.agent_group import AgentGroup
from genpolicy.training.assembly import build_agent
from genpolicy.training.group_training import train_together
from genpolicy.training.interfaces import Progress
from genpolicy.training.loggers import JsonlLogger, Logger, TensorBoardLogger, WandbLogger
from genpolicy.training.online import Interaction, check_spaces
from genpolicy.training.run_directory import RunDirectory
from genpolicy.training.signals import StopSignals
from genpolicy.training.trainer import Trainer, TrainResult

if TYPE_CHECKING:
    import gymnasium

logger = logging.getLogger(__name__)

COMPILE_PAYS_AFTER = 10_000
"""Updates from which on `trainer.compile=null` compiles: compiling takes about as long as some thousand updates."""

_MAY_CHANGE_ON_RESUME = ("resume", "run_dir", "logging", "trainer.eval_workers", "seeds", "vectorize")


def train(config: RunConfig, *, progress: Progress | None = None) -> tuple[RunDirectory, TrainResult]:
    """Train as the configuration says, in a new run directory.

    Args:
        config: with a task.
        progress: is told about each update.

    Returns:
        The run directory and how the run ended.

    Raises:
        GenpolicyError: for anything the user can mend.
    """
    if config.seeds > 1:
        raise ConfigError(f"This is one run, but seeds is {config.seeds}; use train_seeds, or `genpolicy train`.")
    task = _task(config)
    _set_threads(config)
    path = _run_path(config, task, f"seed{config.seed}")
    with _open_sources(config, task) as sources:
        agent = _agent_for(config, sources)
        run = _create_run(path, config, sources)
        with _trainer(config, task, agent, run, sources, progress) as trainer:
            return run, trainer.run()


def resume(config: RunConfig, *, progress: Progress | None = None) -> tuple[RunDirectory, TrainResult]:
    """Go on with a run exactly where it stopped.

    Args:
        config: the run's configuration, from `stored_config`.
        progress: is told about each update.

    Raises:
        DataError: if the dataset is not the one that the run was started with.
        CheckpointError: if no checkpoint can be used.
    """
    assert config.resume is not None
    task = _task(config)
    _set_threads(config)
    with _open_sources(config, task) as sources:
        run = _open_run(Path(config.resume), sources, task)
        agent = _agent_for(config, sources)
        with _trainer(config, task, agent, run, sources, progress) as trainer:
            return run, trainer.resume()


def train_seeds(config: RunConfig, *, progress: Progress | None = None) -> list[tuple[RunDirectory, TrainResult]]:
    """Train `config.seeds` runs that differ in their seed alone, or go on with them.

    With `config.vectorize` they are computed together, see `genpolicy.training.group_training`; each run directory is
    what that of the run alone would be, up to rounding.

    Args:
        config: with a task; `run_dir` is the folder of the runs, whose directories are called seed0, seed1, ...;
            `resume` is such a folder, to go on with what is left.
        progress: is told about each step.

    Returns:
        The run directories and how the runs ended.

    Raises:
        GenpolicyError: for anything the user can mend; if single runs fail, after all others have ended.
    """
    if config.resume is not None:
        return _go_on_with_seeds(config, progress)
    folder = _run_path(config, _task(config), "seeds")
    seeds = range(config.seed, config.seed + config.seeds)
    configs = [
        dataclasses.replace(config, seed=seed, seeds=1, vectorize=False, run_dir=str(folder / f"seed{seed}"))
        for seed in seeds
    ]
    if not config.vectorize:
        return [train(one, progress=progress) for one in configs]
    return _all_or_error(train_group(configs, progress=progress))


def can_be_vectorized(config: RunConfig) -> bool:
    """Whether `train_group` takes runs of a configuration: those that see images or learn online are left out."""
    return config.encoder is None and not config.trainer.online_steps


def seed_directories(folder: str | Path) -> list[Path]:
    """The run directories that `train_seeds` made in a folder; empty if it is none of its."""
    found = [path for path in Path(folder).expanduser().glob("seed*") if RunDirectory.exists(path)]
    return sorted(found, key=lambda path: (len(path.name), path.name))


def _go_on_with_seeds(config: RunConfig, progress: Progress | None) -> list[tuple[RunDirectory, TrainResult]]:
    assert config.resume is not None
    workers = config.trainer.eval_workers
    configs = [
        dataclasses.replace(one, logging=config.logging, trainer=dataclasses.replace(one.trainer, eval_workers=workers))
        for one in map(stored_config, seed_directories(config.resume))
    ]
    if not config.vectorize:
        return [resume(one, progress=progress) for one in configs]
    return _all_or_error(train_group(configs, progress=progress))


def train_group(
    configs: Sequence[RunConfig], *, progress: Progress | None = None
) -> list[tuple[RunDirectory, TrainResult | Exception]]:
    """Train runs that differ in their seed alone as one batched computation.

    Args:
        configs: one for each run; those with `resume` go on, the others begin in their `run_dir`.
        progress: is told about each step of the first run.

    Returns:
        The run directories and how each run ended, or the error that ended it.

    Raises:
        GenpolicyError: for what is wrong with all of them.
    """
    first = configs[0]
    if first.trainer.online_steps:
        raise ConfigError(
            "vectorize=true is for training on a dataset; in the online phase each run has its own environment. "
            "Leave vectorize or trainer.online_steps out."
        )
    task = _task(first)
    _set_threads(first)
    stop = StopSignals()
    with _open_sources(first, task) as sources, contextlib.ExitStack() as stack:
        agents = [_make_agent(config, sources) for config in configs]
        group = AgentGroup(agents)
        _compile_if_it_pays(group, first)
        runs = []
        for config in configs:
            path = Path(config.resume or config.run_dir or "")
            runs.append(_open_run(path, sources, task) if config.resume else _create_run(path, config, sources))
        trainers = [
            stack.enter_context(
                _trainer(config, task, agent, run, sources, progress if agent is agents[0] else None, stop=stop)
            )
            for config, agent, run in zip(configs, agents, runs, strict=True)
        ]
        ends = train_together(trainers, group, stop=stop, resume=any(config.resume for config in configs))
    return list(zip(runs, ends, strict=True))


def _all_or_error(ends: list[tuple[RunDirectory, TrainResult | Exception]]) -> list[tuple[RunDirectory, TrainResult]]:
    results = [(run, end) for run, end in ends if isinstance(end, TrainResult)]
    if len(results) < len(ends):
        errors = {run.path: end for run, end in ends if isinstance(end, Exception)}
        listed = "; ".join(f"{path}: {error}" for path, error in errors.items())
        raise GenpolicyError(f"{len(errors)} of {len(ends)} runs failed, the others ended as they should. {listed}")
    return results


def stored_config(path: str | Path, given: RunConfig | None = None, keys: tuple[str, ...] = ()) -> RunConfig:
    """Read the configuration of a run directory, or of a folder of `train_seeds`, to resume it.

    Args:
        path: the run directory or folder.
        given: what the user asked for besides ``resume=``.
        keys: the keys that the user gave.

    Raises:
        ConfigError: if a given key differs from the run's: a resumed run goes on as it was started.
    """
    if not RunDirectory.exists(Path(path)) and (runs := seed_directories(path)):
        vectorize = given is not None and given.vectorize
        return dataclasses.replace(
            stored_config(runs[0], given, keys), resume=str(path), seeds=len(runs), vectorize=vectorize
        )
    config = from_yaml(RunDirectory.open(Path(path)).config_yaml)
    logging_config, workers = config.logging, config.trainer.eval_workers
    if given is not None:
        for key in keys:
            if key.startswith(_MAY_CHANGE_ON_RESUME):
                continue
            old, new = _value(config, key), _value(given, key)
            if old != new:
                raise ConfigError(
                    f"{key} is {old!r} in {path} and {new!r} on the command line. A resumed run goes on as it was "
                    f"started: leave {key} out, or start a new run without resume."
                )
        if any(key.startswith("logging") for key in keys):
            logging_config = given.logging
        if "trainer.eval_workers" in keys:
            workers = given.trainer.eval_workers
    trainer = dataclasses.replace(config.trainer, eval_workers=workers)
    return dataclasses.replace(config, resume=str(path), logging=logging_config, trainer=trainer)


def restore(path: Path, *, checkpoint: str = "best", device: str | None = None) -> Agent:
    """Load the agent of a run directory; see `genpolicy.load_agent`."""
    run = RunDirectory.open(path)
    config = from_yaml(run.config_yaml)
    if device is not None:
        config = dataclasses.replace(config, device=device)
    facts = _facts(run)["data"]
    agent = build_agent(config, observation_shape=facts["observation_shape"], action_dim=facts["action_dim"])
    tensors, _ = checkpoints.load(_checkpoint_path(run, checkpoint))
    agent.load_state_dict(checkpoints.section(tensors, "agent"))
    return agent


def run_task(path: str | Path) -> Task:
    """The task of a run directory."""
    return _task(from_yaml(RunDirectory.open(Path(path)).config_yaml))


def _checkpoint_path(run: RunDirectory, name: str) -> Path:
    if name == "best":
        best = checkpoints.best(run.checkpoints)
        name = best["name"] if best is not None else "last"
    if name == "last":
        path = checkpoints.latest(run.checkpoints)
        if path is None:
            raise CheckpointError(
                f"{run.path} has no checkpoint yet. Wait for the first one (trainer.checkpoint_every), "
                f"or go on with it: genpolicy train resume={run.path}."
            )
        return path
    if name not in checkpoints.names(run.checkpoints):
        have = ", ".join(checkpoints.names(run.checkpoints)) or "none"
        raise CheckpointError(f"{run.path} has no checkpoint '{name}'. It has: best, last, {have}.")
    return run.checkpoints / name


def _task(config: RunConfig) -> Task:
    data = config.data
    if config.task is None and data.path is None:
        raise ConfigError(
            "No task is given. Name one, as in task=cube-single-play-singletask-v0; `genpolicy list tasks` prints "
            "them. For data of your own give data.path."
        )
    task = own_task(data.path or "") if config.task is None else get_task(config.task)
    if task.source == "minari":
        task = minari.prepare(task, data.dir, path=data.path)
    if data.environment is not None:
        task = with_environment(task, data.environment)
    if data.backend == "d4rl":
        task = with_legacy_d4rl(task)
    task = with_success_timing(task, data.success_timing)
    if config.trainer.eval_every or config.trainer.online_steps:
        require_environment(task.environment)
    return task


def _set_threads(config: RunConfig) -> None:
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)


@dataclass(frozen=True)
class _Sources:
    """Where a run's transitions come from: files, an environment, or both."""

    train_set: TransitionDataset | None
    validation_set: TransitionDataset | None
    env: "gymnasium.Env | None"
    observation_shape: tuple[int, ...]
    action_dim: int

    @property
    def checksum(self) -> str | None:
        """Of the dataset, if there is one."""
        return None if self.train_set is None else self.train_set.checksum


@contextlib.contextmanager
def _open_sources(config: RunConfig, task: Task) -> Iterator[_Sources]:
    """Load the dataset and make the environment, where the run needs them."""
    train_set = validation_set = env = None
    with contextlib.ExitStack() as stack:
        if config.trainer.online_steps:  # first: a million updates later would be late for an error
            if not task.environment:
                raise ConfigError(
                    f"The online phase needs an environment, and the data of '{task.name}' name none. "
                    "Name one (data.environment), or leave trainer.online_steps out."
                )
            env = stack.enter_context(contextlib.closing(make_env(task)))
        if uses_dataset(config):
            train_set, validation_set = load_dataset(task, config.data.dir, path=config.data.path)
            shape, action_dim = train_set.observation_shape, train_set.action_dim
            if env is None and config.trainer.eval_every and task.environment and task.source in ("minari", "file"):
                # The other loaders know their environments; here data and environment are the user's to match.
                with contextlib.closing(make_env(task)) as scored:
                    check_spaces(scored, shape, action_dim, name=task.environment)
        else:
            assert env is not None and env.observation_space.shape and env.action_space.shape
            shape, (action_dim,) = env.observation_space.shape, env.action_space.shape
        if env is not None and (len(shape) != 1 or config.data.frame_stack > 1):
            raise ConfigError(
                f"The online phase is for single state observations; those of '{task.name}' have shape {tuple(shape)}, "
                f"and data.frame_stack is {config.data.frame_stack}. Leave trainer.online_steps out."
            )
        if env is not None:
            check_spaces(env, shape, action_dim, name=task.environment)
        yield _Sources(train_set, validation_set, env, shape, action_dim)


def _run_path(config: RunConfig, task: Task, ending: str) -> Path:
    """`run_dir`, or by default a directory of its own under ``runs``."""
    if config.run_dir:
        return Path(config.run_dir).expanduser()
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs", Path(config.algorithm).stem, task.name, f"{stamp}-{ending}")


def _create_run(path: Path, config: RunConfig, sources: _Sources) -> RunDirectory:
    facts = provenance.collect(sources.checksum) | {
        "data": {"observation_shape": list(sources.observation_shape), "action_dim": sources.action_dim}
    }
    return RunDirectory.create(path, to_yaml(dataclasses.replace(config, run_dir=str(path))), facts)


def _open_run(path: Path, sources: _Sources, task: Task) -> RunDirectory:
    """Open the directory of a run to go on with it.

    Raises:
        DataError: if it was started with other data.
    """
    run = RunDirectory.open(path)
    trained_on = _facts(run)["dataset_sha256"]
    if sources.checksum != trained_on:
        raise DataError(
            f"The dataset {task.dataset} has sha256 {sources.checksum}; {run.path} was started with {trained_on}. "
            "Put that file back (data.dir), or start a new run."
        )
    return run


def _agent_for(config: RunConfig, sources: _Sources) -> Agent:
    agent = _make_agent(config, sources)
    _compile_if_it_pays(agent, config)
    return agent


def _make_agent(config: RunConfig, sources: _Sources) -> Agent:
    normalization = None
    if config.data.normalize_observations and sources.train_set is not None:
        normalization = sources.train_set.observation_mean_std()
    return build_agent(
        config,
        observation_shape=sources.observation_shape,
        action_dim=sources.action_dim,
        normalization=normalization,
    )


def _compile_if_it_pays(learner: Agent | AgentGroup, config: RunConfig) -> None:
    updates = offline_steps(config) + online_updates(config)
    wanted = config.trainer.compile
    if wanted or (wanted is None and updates >= COMPILE_PAYS_AFTER):
        logger.info("The update is compiled (trainer.compile=false turns it off).")
        learner.accelerate()


@contextlib.contextmanager
def _trainer(
    config: RunConfig,
    task: Task,
    agent: Agent,
    run: RunDirectory,
    sources: _Sources,
    progress: Progress | None,
    *,
    stop: StopSignals | None = None,
) -> Iterator[Trainer]:
    settings = config.trainer
    chunk, n_step = config.data.action_chunk, 1 if config.critic is None else config.critic.n_step
    returns: dict[str, Any] = {"device": agent.device, "discount": agent.discount}
    returns |= {"n_step": max(n_step, chunk), "action_chunk": chunk}
    batches: dict[str, Any] = returns | {"batch_size": settings.batch_size, "frame_stack": config.data.frame_stack}
    sampler = None if sources.train_set is None else BatchSampler(sources.train_set, seed=config.seed, **batches)
    validation = sources.validation_set
    interaction = None
    if sources.env is not None:
        store = EpisodeStore(sources.observation_shape, sources.action_dim, **returns)
        sampling = config.online.sampling
        sampler = ReplaySampler(store, sampler, settings.batch_size, sampling=sampling, seed=config.seed)
        shift = DATASETS[task.dataset].reward_shift if task.dataset in DATASETS else minari.reward_shift(task)
        interaction = Interaction(
            agent, sampler, sources.env, config=config.online, reward_shift=shift, seed=config.seed
        )
    assert sampler is not None
    with contextlib.ExitStack() as stack:
        loggers = _loggers(config, run)
        for one in loggers:
            stack.callback(one.close)
        evaluator = None
        if settings.eval_every and not task.environment:
            logger.warning("The data name no environment: there is no evaluation (data.environment names one).")
        elif settings.eval_every:
            evaluator = stack.enter_context(
                Evaluator(
                    task,
                    episodes=settings.eval_episodes,
                    workers=settings.eval_workers,
                    seed=config.seed,
                    frame_stack=config.data.frame_stack,
                )
            )
        yield Trainer(
            agent,
            sampler,
            config=settings,
            run=run,
            loggers=loggers,
            evaluator=evaluator,
            validation=None if validation is None else BatchSampler(validation, seed=config.seed + 1, **batches),
            metric=f"evaluation/{task.metric}",
            progress=progress,
            online=interaction,
            stop=stop,
        )


def _loggers(config: RunConfig, run: RunDirectory) -> list[Logger]:
    loggers: list[Logger] = [JsonlLogger(run)]
    try:
        if config.logging.tensorboard:
            loggers.append(TensorBoardLogger(run))
        if config.logging.wandb != "disabled":
            project, mode = config.logging.wandb_project, config.logging.wandb
            loggers.append(WandbLogger(run, project=project, mode=mode, config=to_tree(config)))
    except ConfigError as error:
        run.set_status("failed", int(run.status()["step"]), str(error))
        raise
    return loggers


def _facts(run: RunDirectory) -> dict[str, Any]:
    try:
        return json.loads((run.path / "provenance.json").read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{run.path / 'provenance.json'} cannot be read ({error}); it says what the agent was trained on. "
            "Restore the file, or start a new run."
        ) from error


def _value(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = getattr(config, name)
    return config
