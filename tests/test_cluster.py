"""cluster.yaml as Ray's own launcher reads it."""

from pathlib import Path

import pytest
import yaml

CLUSTER = Path(__file__).resolve().parents[1] / "cluster.yaml"


@pytest.fixture
def config() -> dict:
    return yaml.safe_load(CLUSTER.read_text())


def validate(config: dict) -> dict:
    """The configuration with Ray's defaults for what it leaves out."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(config)
    validate_config(prepared)
    return prepared


def test_rays_validator_accepts_it(config):
    validate(config)


@pytest.mark.parametrize(
    "change",
    [
        {"max_wrokers": 8},
        {"head_node_type": "tail"},
        {"available_node_types": {"head": {"resources": {"CPU": 0.5}, "node_config": {}}}},
    ],
)
def test_control_the_validator_refuses_mistakes(config, change):
    with pytest.raises(Exception, match=r"."):
        validate(config | change)


def test_ray_version_is_the_pinned_one(config):
    pins = dict(
        line.split("==") for line in (CLUSTER.parent / "constraints.txt").read_text().split()
    )
    assert f":{pins['ray']}-" in config["docker"]["image"]


def test_gpu_workers_are_spot_and_come_from_zero_and_the_head_takes_no_slices(config):
    types = validate(config)["available_node_types"]
    assert config["head_node_type"] == "head"
    assert types["head"]["resources"] == {"CPU": 0}
    workers = types["gpu"]
    assert workers["resources"]["GPU"] == 1
    assert workers["min_workers"] == 0 < workers["max_workers"]
    assert workers["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in types["head"]["node_config"]


@pytest.mark.parametrize("kind", ["head", "gpu"])
def test_nothing_is_left_to_defaults_that_do_not_fit(config, kind):
    """Ray's image is of 2022, and its role is for the head only: workers could not read S3."""
    assert {"ImageId", "IamInstanceProfile"} <= set(
        config["available_node_types"][kind]["node_config"]
    )


def test_every_node_asks_for_the_token(config):
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token ray start " in commands[-1]
    assert "~/.ray/auth_token" in config["file_mounts"]
