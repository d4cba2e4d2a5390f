import json
import sys
import types

import pytest

from genpolicy.errors import ConfigError
from genpolicy.training.loggers import JsonlLogger, TensorBoardLogger, WandbLogger
from genpolicy.training.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path / "run", "", {})


class FakeWandb(types.ModuleType):
    class Error(Exception):
        pass

    def __init__(self):
        super().__init__("wandb")
        self.inits, self.logged, self.metrics, self.finished = [], [], [], 0

    def init(self, **keywords):
        self.inits.append(keywords)
        return self

    def define_metric(self, *arguments, **keywords):
        self.metrics.append((arguments, keywords))

    def log(self, values):
        self.logged.append(values)

    def finish(self):
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch):
    module = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_jsonl_separates_kinds_and_puts_the_step_first(run):
    logger = JsonlLogger(run)
    logger.log("train", 10, {"policy/loss": 0.5, "bad": float("nan")})
    logger.log("eval", 20, {"evaluation/success": 1.0}, phase="online")
    logger.close()
    assert run.log_file("train").read_text() == '{"step": 10, "phase": "offline", "policy/loss": 0.5, "bad": "nan"}\n'
    assert json.loads(run.log_file("eval").read_text()) == {"step": 20, "phase": "online", "evaluation/success": 1.0}


def test_tensorboard_holds_the_scalars_and_a_resumed_run_replaces_later_ones(run):
    pytest.importorskip("tensorboard", reason="needs the extra 'tensorboard'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for steps in ((1, 2, 3), (2, 3, 4)):  # killed after 3, resumed from 1
        logger = TensorBoardLogger(run)
        for step in steps:
            logger.log("train", step, {"policy/loss": step / 2})
        logger.close()
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    scalars = [(event.step, event.value) for event in events.Scalars("policy/loss")]
    assert scalars == [(1, 0.5), (2, 1.0), (3, 1.5), (4, 2.0)]


def test_wandb_goes_on_in_the_same_run_after_resuming(run, wandb):
    first = WandbLogger(run, project="p", mode="offline", config={"seed": 1})
    first.log("train", 5, {"policy/loss": 0.5})
    first.close()
    WandbLogger(RunDirectory.open(run.path), project="p", mode="offline")
    one, two = wandb.inits
    assert one["id"] == two["id"] and one["id"]
    assert (one["resume"], one["reinit"], one["mode"], one["dir"], one["config"]) == (
        "allow",
        "create_new",
        "offline",
        str(run.path),
        {"seed": 1},
    )
    assert wandb.logged == [{"policy/loss": 0.5, "step": 5, "phase": "offline"}]
    assert (("*",), {"step_metric": "step"}) in wandb.metrics
    assert wandb.finished == 1


def test_wandb_that_cannot_start_names_the_offline_mode(run, wandb, monkeypatch):
    def refuse(**_):
        raise wandb.Error("not logged in.")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(ConfigError, match=r"not logged in.*offline"):
        WandbLogger(run)


def test_damaged_wandb_id_says_what_to_do(run, wandb):
    (run.path / "wandb.json").write_text("{")
    with pytest.raises(ConfigError, match=r"wandb\.json is damaged.*Delete it"):
        WandbLogger(run)


@pytest.mark.parametrize(
    ("module", "logger", "extra"),
    [("torch.utils.tensorboard", TensorBoardLogger, "tensorboard"), ("wandb", WandbLogger, "wandb")],
)
def test_missing_package_names_the_extra(run, monkeypatch, module, logger, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"genpolicy\[{extra}\]"):
        logger(run)
