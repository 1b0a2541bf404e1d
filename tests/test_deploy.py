"""deploy/ and cluster.yaml: fields that exist, numbers that agree, nodes with all they need."""

import re
import tomllib
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from support import ROOT
from support.deploy import (
    DEPLOY,
    NoTwice,
    cluster_of,
    cron_jobs,
    image_sources,
    job_of,
    manifest,
    read,
)

import fastbert

MANIFESTS = ["raycluster.yaml", "rayjob.yaml", "raycronjob.yaml"]


# What KubeRay 1.7's custom resource definitions say of the fields that are used here. No package
# has them, so they are written down once more, without those that are not used.


def fields(**known: dict) -> dict:
    """An object with these fields, all of them and no others."""
    return {
        "type": "object",
        "properties": known,
        "required": list(known),
        "additionalProperties": False,
    }


TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0}
START = {"type": "object", "additionalProperties": TEXT}  # "0", not 0
POD = {"type": "object"}  # Kubernetes' own: see `check`
CLUSTER = fields(
    rayVersion=TEXT,
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions=fields(version={"enum": ["v1", "v2"]}, idleTimeoutSeconds=COUNT),
    authOptions=fields(mode={"enum": ["disabled", "token"]}),
    headGroupSpec=fields(rayStartParams=START, template=POD),
    workerGroupSpecs={
        "type": "array",
        "items": fields(
            groupName=TEXT,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            rayStartParams=START,
            template=POD,
        ),
    },
)
JOB = fields(
    entrypoint=TEXT,
    backoffLimit=COUNT,
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    shutdownAfterJobFinishes={"type": "boolean"},
    ttlSecondsAfterFinished=COUNT,
    rayClusterSpec=CLUSTER,
)
CRON_JOB = fields(
    # A zone in the schedule is refused, for it has a field of its own.
    schedule={"type": "string", "pattern": r"^[0-9*/,-]+( [0-9*/,-]+){4}$"},
    timeZone=TEXT,
    jobTemplate=JOB,
)
SPECS = {"RayCluster": CLUSTER, "RayJob": JOB, "RayCronJob": CRON_JOB}


def check(document: dict) -> None:
    """Raise unless KubeRay takes it: its own fields, and the pods in Kubernetes' schema."""
    # Names of what is made from it end in more characters: 63 are all there are.
    name = fields(name={"type": "string", "pattern": "^[a-z]([a-z0-9-]{0,34}[a-z0-9])?$"})
    prefix = fields(generateName={"type": "string", "pattern": "^[a-z][a-z0-9-]{0,34}-$"})
    whole = fields(
        apiVersion={"const": "ray.io/v1"},
        kind={"enum": list(SPECS)},
        metadata={"oneOf": [name, prefix]},
        spec=SPECS[document["kind"]],
    )
    jsonschema.validate(document, whole)
    cluster = cluster_of(document)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "template": group["template"]}
        kubernetes_validate.validate(pod, "1.33", strict=True)


def test_no_yaml_file_is_forgotten():
    found = {p for pattern in ("*.y*ml", "*/*.y*ml") for p in ROOT.glob(pattern)}
    assert found == {
        ROOT / "cluster.yaml",
        ROOT / "mkdocs.yml",  # of the documentation
        *(DEPLOY / name for name in (*MANIFESTS, "cronjob.yaml")),
    }


def test_the_page_names_every_file():
    text = (ROOT / "docs" / "nightly.md").read_text()
    files = {path.name for path in DEPLOY.iterdir() if path.is_file()}
    assert {name for name in re.findall(r"^\| `deploy/(\S+)`", text, re.M)} == files


@pytest.mark.parametrize("name", MANIFESTS)
def test_kuberay_takes_the_manifest(name):
    check(manifest(name))


def test_kubernetes_takes_the_cron_jobs():
    for document in cron_jobs():
        kubernetes_validate.validate(document, "1.33", strict=True)
        document["spec"]["concurrencyPolicies"] = "Forbid"
        with pytest.raises(jsonschema.ValidationError):
            kubernetes_validate.validate(document, "1.33", strict=True)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "concurrencyPolicy"), "Forbid"),  # CronJob's; RayCronJob has none
        (("spec", "schedule"), "CRON_TZ=Etc/UTC 30 2 * * *"),
        (("spec", "jobTemplate", "backoffLimit"), "2"),
        (("spec", "jobTemplate", "rayClusterSpec", "maxReplicas"), 8),
        (("spec", "jobTemplate", "rayClusterSpec", "authOptions", "mode"), "none"),
        (("metadata", "name"), "fastbert_nightly"),
        (("metadata", "name"), "f" * 37),
    ],
)
def test_control_a_mistake_is_refused(path, value):
    document = manifest("raycronjob.yaml")
    *parents, last = path
    place = document
    for key in parents:
        place = place[key]
    place[last] = value
    with pytest.raises(jsonschema.ValidationError):
        check(document)


@pytest.mark.parametrize("change", [{"nodeSelectors": {}}, {"serviceAccountName": 1}])
def test_control_a_mistake_in_a_pod_is_refused(change):
    document = manifest("raycluster.yaml")
    cluster_of(document)["workerGroupSpecs"][0]["template"]["spec"].update(change)
    with pytest.raises(jsonschema.ValidationError):
        check(document)


def test_control_a_key_that_stands_twice_is_refused():
    with pytest.raises(AssertionError, match="twice"):
        yaml.load("a: {b: 1, b: 2}", NoTwice)


def test_all_manifests_describe_the_same_cluster_and_job():
    clusters = [cluster_of(manifest(name)) for name in MANIFESTS]
    assert clusters[0] == clusters[1] == clusters[2]
    assert job_of(manifest("rayjob.yaml")) == job_of(manifest("raycronjob.yaml"))


def test_gpu_workers_come_from_zero_and_the_head_takes_no_slices():
    cluster = cluster_of(manifest("raycluster.yaml"))
    assert cluster["enableInTreeAutoscaling"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["replicas"] == workers["minReplicas"] == 0 < workers["maxReplicas"]
    (container,) = workers["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container["resources"]["requests"] == container["resources"]["limits"]


def test_versions_are_those_of_the_repository():
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    cluster = cluster_of(manifest("raycluster.yaml"))
    assert cluster["rayVersion"] == pins["ray"]
    image = f"fastbert-ray:{fastbert.__version__}"
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group["template"]["spec"]["containers"][0]["image"] == image
    for document in cron_jobs():
        (pod,) = document["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
        assert pod["image"] == image
    container = (DEPLOY / "Containerfile").read_text()
    assert f"-t {image} " in container
    assert f"\nFROM {read('cluster.yaml')['docker']['image']}\n" in container


def test_aws_has_as_many_workers_as_kubernetes():
    cluster = read("cluster.yaml")
    (workers,) = cluster_of(manifest("raycluster.yaml"))["workerGroupSpecs"]
    assert cluster["available_node_types"]["gpu"]["max_workers"] == workers["maxReplicas"]
    assert cluster["max_workers"] == workers["maxReplicas"]


# Both ways to put the package on a node.


def mounted_sources() -> set[str]:
    mounts = read("cluster.yaml")["file_mounts"]
    assert all(Path(mount).name == Path(source).name for mount, source in mounts.items())
    return {source for source in mounts.values() if not source.startswith("~")}


@pytest.mark.parametrize("sources", [image_sources, mounted_sources])
def test_nodes_get_all_that_pip_needs(sources):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {"pyproject.toml", "constraints.txt", project["project"]["readme"]}
    assert (
        needed
        | {
            name.rstrip("*")
            for name in project["tool"]["setuptools"]["packages"]["find"]["include"]
        }
        <= sources()
    )
    assert all((ROOT / source).exists() for source in sources())


@pytest.mark.parametrize("name", ["deploy/Containerfile", "cluster.yaml"])
def test_nodes_install_with_constraints_and_extras_that_exist(name):
    install = r"pip install.* -c constraints\.txt -e ['\"]\.\[(\S+)\]['\"]"
    ((extras),) = re.findall(install, (ROOT / name).read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
