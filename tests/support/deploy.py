"""The files of deploy/ and cluster.yaml, read."""

import re

import yaml

from support import ROOT

DEPLOY = ROOT / "deploy"


class NoTwice(yaml.SafeLoader):
    """YAML in which no key stands twice: PyYAML would silently take the last one."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key) for key, _ in node.value if key.tag[-5:] != "merge"]
        assert len(keys) == len(set(keys)), f"a key stands twice{node.start_mark}"
        return super().construct_mapping(node, deep)


def read(name: str) -> dict:
    return yaml.load((ROOT / name).read_text(), NoTwice)


def cron_jobs() -> list[dict]:
    """The documents of cronjob.yaml: to label, and to check."""
    return list(yaml.load_all((DEPLOY / "cronjob.yaml").read_text(), NoTwice))


def manifest(name: str) -> dict:
    return read(f"deploy/{name}")


def job_of(document: dict) -> dict:
    spec = document["spec"]
    return spec.get("jobTemplate", spec)


def cluster_of(document: dict) -> dict:
    spec = job_of(document)
    return spec.get("rayClusterSpec", spec)


def image_sources() -> set[str]:
    copies = re.findall(r"^COPY \S+ (.+) \S+$", (DEPLOY / "Containerfile").read_text(), re.M)
    return {source for copy in copies for source in copy.split()}
