"""Hydra applications of a user's own: the parts in its ConfigStore, and agents made inside it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from genpolicy import make_agent
from genpolicy.config import from_yaml, store_in_hydra
from genpolicy.heads import MeanFlowConfig
from genpolicy.networks import MLPConfig
from genpolicy.registry import BACKBONES, CRITICS, HEADS, POLICIES

APPLICATION = """
defaults:
  - head: gaussian
  - critic: td
  - policy: q_gradient
  - _self_
mine: 3
"""


@pytest.fixture
def application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(ConfigStore.instance(), "repo", {**ConfigStore.instance().repo})
    (tmp_path / "app.yaml").write_text(APPLICATION)
    GlobalHydra.instance().clear()
    store_in_hydra()
    with initialize_config_dir(str(tmp_path), version_base=None):
        yield tmp_path
    GlobalHydra.instance().clear()


def test_every_part_is_a_group_option(application: Path) -> None:
    for group, registry in (("head", HEADS), ("critic", CRITICS), ("policy", POLICIES)):
        for name in registry.names():
            assert compose("app", overrides=[f"{group}={name}"])[group].name == name
    repo = ConfigStore.instance().repo
    assert sorted(repo["head"]["backbone"]) == sorted(f"{name}.yaml" for name in BACKBONES.names())


def test_parts_chosen_by_hydra_build_the_same_options(application: Path) -> None:
    config = compose("app", overrides=["head=meanflow", "head.time_steps=50", "critic.hidden_dims=[3,4]"])
    assert config.mine == 3
    parts = OmegaConf.masked_copy(config, ["head", "critic", "policy"])
    ours = from_yaml(OmegaConf.to_yaml(parts))
    assert ours.head == MeanFlowConfig(time_steps=50)
    assert ours.critic.hidden_dims == (3, 4)


def test_hydra_refuses_unknown_fields_of_a_part(application: Path) -> None:
    with pytest.raises(Exception, match=r"Could not override 'head\.time_stepz'") as caught:
        compose("app", overrides=["head=meanflow", "head.time_stepz=50"])
    assert isinstance(caught.value, OmegaConfBaseException) or "hydra" in type(caught.value).__module__


def test_a_backbone_can_be_exchanged_by_hydra(application: Path) -> None:
    config = compose("app", overrides=["head=meanflow", "head/backbone=mlp", "head.backbone.hidden_dims=[7]"])
    ours = from_yaml(OmegaConf.to_yaml(OmegaConf.masked_copy(config, ["head"])))
    assert ours.head == MeanFlowConfig(backbone=MLPConfig(hidden_dims=(7,)))


def test_agents_are_made_inside_a_hydra_application_and_leave_it_alone(application: Path) -> None:
    hydra = GlobalHydra.instance().hydra
    agent = make_agent(observation_shape=(3,), action_dim=2, overrides=["preset=smoke", "head=gaussian"])
    assert agent.act(np.zeros(3)).shape == (2,)
    assert GlobalHydra.instance().hydra is hydra
    assert compose("app").mine == 3
