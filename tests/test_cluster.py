"""cluster.yaml as Ray's own launcher reads it."""

from pathlib import Path

import pytest
import yaml

CLUSTER = Path(__file__).resolve().parents[1] / "cluster.yaml"


def validate(config: dict) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(config))


def test_rays_validator_accepts_it():
    validate(yaml.safe_load(CLUSTER.read_text()))


@pytest.mark.parametrize(
    "change",
    [
        {"max_wrokers": 8},
        {"head_node_type": "tail"},
        {"available_node_types": {"head": {"resources": {"CPU": 0.5}, "node_config": {}}}},
    ],
)
def test_control_the_validator_refuses_mistakes(change):
    with pytest.raises(Exception, match=r"."):
        validate(yaml.safe_load(CLUSTER.read_text()) | change)


def test_ray_version_is_the_pinned_one():
    pins = dict(
        line.split("==") for line in (CLUSTER.parent / "constraints.txt").read_text().split()
    )
    assert f":{pins['ray']}-" in yaml.safe_load(CLUSTER.read_text())["docker"]["image"]
