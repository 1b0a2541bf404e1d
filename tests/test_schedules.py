"""cron, KubeRay and Airflow: their commands are understood, and they act on exit codes as meant.

0 done, 1 failed, 2 wrong usage, 3 done with bad shards or rows, 4 another run holds the output; of
the check, 5: a person should look.
"""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from unittest.mock import create_autospec

import pytest
from support import ROOT
from support.deploy import DEPLOY, cluster_of, cron_jobs, image_sources, job_of, manifest

from jobs.options import command as command_of
from pipelines.checkpoints.settings import LabelAnySettings
from pipelines.settings import ReportSettings

#: Where the image has the repository, and where the crontab expects it.
IMAGE_ROOT, CRON_ROOT = "/home/ray/fastbert-ray", "/srv/fastbert-ray"


class Fail(Exception):
    """AirflowFailException."""


class Skip(Exception):
    """AirflowSkipException."""


@pytest.fixture
def dag(monkeypatch):
    """The DAG file. `dag.arguments` are those of the DAG, `dag.label` and `dag.check` its tasks'
    functions, `dag.order` says which comes first."""
    sdk, exceptions = ModuleType("airflow.sdk"), ModuleType("airflow.sdk.exceptions")
    told = {"order": []}

    class Task:
        def __init__(self, name):
            self.name = name

        def __rshift__(self, other):
            told["order"].append((self.name, other.name))

    def task(function):
        told[function.__name__] = function
        return lambda: Task(function.__name__)

    def declare(**arguments):
        told["arguments"] = arguments
        return lambda function: function

    sdk.task, sdk.dag = task, declare
    exceptions.AirflowFailException, exceptions.AirflowSkipException = Fail, Skip
    for module in (ModuleType("airflow"), sdk, exceptions):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    spec = importlib.util.spec_from_file_location("airflow_dag", DEPLOY / "airflow_dag.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.PAUSE = 0
    vars(module).update(told)
    return module


def cron_lines() -> list[str]:
    """The crontab's commands, to label and to check, without the five fields before each."""
    lines = re.findall(r"^[^#\n].*", (DEPLOY / "crontab").read_text(), re.M)
    assert all(re.match(r"(?:[0-9*/,-]+ ){5}(/|cd )", line) for line in lines)
    assert "%" not in "".join(lines), "cron would end the line there"
    return [line.split(" ", 5)[5] for line in lines]


def command(name: str, dag: ModuleType) -> str:
    """What this file of deploy/, or cluster.yaml's header, contains to run."""
    if name == "cluster.yaml":
        header = (ROOT / name).read_text().replace("\\\n#", " ")
        return re.findall(r"# +ray job submit .* -- +(.+)", header)[0]
    if name == "airflow_dag.py":
        return dag.COMMAND
    if name == "crontab":
        return cron_lines()[0].partition(" >> ")[0]
    if name == "cronjob.yaml":
        return " ".join(pod_commands()[0])
    return job_of(manifest(name))["entrypoint"]


def pod_commands() -> list[list[str]]:
    """What the containers of cronjob.yaml run: to label, and to check."""
    pods = [each["spec"]["jobTemplate"]["spec"]["template"]["spec"] for each in cron_jobs()]
    containers = [container for pod in pods for container in pod["containers"]]
    return [[*each["command"], *each.get("args", [])] for each in containers]


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("cronjob.yaml", IMAGE_ROOT),
        ("cluster.yaml", ""),
        ("crontab", CRON_ROOT),
        ("airflow_dag.py", IMAGE_ROOT),
        ("rayjob.yaml", IMAGE_ROOT),
        ("raycronjob.yaml", IMAGE_ROOT),
    ],
)
def test_commands_are_understood_by_their_job(dag, name, place):
    line = re.fullmatch(r"(.*\b)python jobs/(\w+)\.py (.+)", command(name, dag))
    before, job, arguments = line.groups()
    assert before.removeprefix("cd ").startswith(place)
    context = command_of(job).make_context(job, shlex.split(arguments))
    settings = LabelAnySettings(**context.params)
    if name not in ("crontab", "cronjob.yaml"):
        # A cluster that starts from zero has no GPU from which the job could guess.
        assert settings.gpus_per_replica == 1
        (workers,) = cluster_of(manifest("raycluster.yaml"))["workerGroupSpecs"]
        assert settings.replica_range() == (1, workers["maxReplicas"])


def test_the_image_has_what_the_commands_name():
    assert f"\nWORKDIR {IMAGE_ROOT}\n" in (DEPLOY / "Containerfile").read_text()
    assert "deploy/nightly.sh" in image_sources()
    assert os.access(DEPLOY / "nightly.sh", os.X_OK)


@pytest.mark.parametrize("name", ["crontab", "cronjob.yaml", "airflow_dag.py"])
def test_checks_are_understood_and_look_at_what_was_labelled(dag, name):
    line = {
        "crontab": cron_lines()[1].partition(" > ")[0],
        "cronjob.yaml": " ".join(pod_commands()[1]),
        "airflow_dag.py": dag.CHECK,
    }[name]
    arguments = re.fullmatch(r".*\bpython jobs/report\.py (.+)", line)[1]
    context = command_of("report").make_context("report", shlex.split(arguments))
    settings = ReportSettings(**context.params)
    assert settings.check
    assert f"--output {settings.output} " in command(name, dag)
    assert settings.max_age == (None if name == "airflow_dag.py" else 26)


#: A Python that prints its folder and arguments, and ends with $CODE, or $CHECK if it checks.
FAKE = """#!/bin/sh
echo "in $(pwd): $*"
case $1 in jobs/report.py) exit $CHECK ;; esac
exit $CODE
"""


def shell(command: str, root: Path, code: int, check: int = 0) -> subprocess.CompletedProcess:
    """Run it with the repository at `root`, where Python is something that ends with `code`."""
    (root / "deploy").mkdir(parents=True)
    shutil.copy(DEPLOY / "nightly.sh", root / "deploy")
    (root / ".venv" / "bin").mkdir(parents=True)
    python = root / ".venv" / "bin" / "python"
    python.write_text(FAKE)
    python.chmod(0o755)
    for place in (CRON_ROOT, IMAGE_ROOT):
        command = command.replace(place, str(root))
    environment = {"PATH": f"{python.parent}:/usr/bin:/bin", "HOME": str(root)}
    environment |= {"CODE": str(code), "CHECK": str(check)}
    return subprocess.run(
        ["/bin/sh", "-c", command], cwd="/", env=environment, capture_output=True, text=True
    )


#: How the job ended, what the check found, and what a scheduler sees.
ENDS = [(0, 0, 0), (0, 5, 5), (3, 0, 0), (3, 5, 5), (1, 5, 1), (2, 5, 2), (4, 5, 0)]


@pytest.mark.parametrize(("code", "check", "seen"), ENDS)
def test_cron_mails_what_needs_a_person_and_nothing_else(tmp_path, code, check, seen):
    root = tmp_path / "repository"
    result = shell(cron_lines()[0], root, code, check)
    log = (root / "label.log").read_text()
    assert log.startswith(f"in {root}: jobs/label.py --input ")
    assert ("jobs/report.py --output s3://corpus/labels --check" in log) == (code in (0, 3))
    assert ("another run" in log) == (code == 4)
    assert result.stderr == ""
    assert result.stdout == (log if seen else "")


@pytest.mark.parametrize("check", [0, 5])
def test_cron_mails_in_the_morning(tmp_path, check):
    result = shell(cron_lines()[1], tmp_path / "repository", 0, check)
    assert ("jobs/report.py" in result.stdout) == bool(check)
    assert result.stderr == ""


@pytest.mark.parametrize(("code", "check", "seen"), ENDS)
def test_kubernetes_sees_failures_and_what_needs_a_person(tmp_path, code, check, seen):
    entrypoint = job_of(manifest("raycronjob.yaml"))["entrypoint"]
    # Ray's command line puts the words that it gets from one shell together for another one.
    words = shlex.split(entrypoint)
    assert subprocess.list2cmdline(words) == entrypoint
    assert all(re.fullmatch(r"[\w./:=-]+", word) for word in words)
    root = tmp_path / "repository"
    result = shell(entrypoint, root, code, check)
    assert result.stdout.startswith(f"in {root}: jobs/label.py --input ")
    assert result.returncode == seen
    pod = shell(shlex.join(pod_commands()[0]), tmp_path / "pod", code, check)
    assert pod.returncode == seen


def test_kubernetes_repeats_only_what_may_end_otherwise():
    label, check = (each["spec"]["jobTemplate"]["spec"] for each in cron_jobs())
    ((rule,),) = [label["podFailurePolicy"]["rules"]]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [2, 5])
    assert label["backoffLimit"] == 2
    assert check["backoffLimit"] == 0
    assert {each["spec"]["concurrencyPolicy"] for each in cron_jobs()} == {"Forbid"}


def test_airflow_runs_one_at_a_time_and_makes_up_for_nothing(dag):
    assert dag.arguments["max_active_runs"] == 1
    assert dag.arguments["catchup"] is False
    assert dag.arguments["default_args"]["retries"] > 0


class Jobs:
    """A job server: `client` is Ray's, as far as the signatures of its methods go."""

    def __init__(self, monkeypatch, *, end="SUCCEEDED", code=0, others=()):
        from ray.dashboard.modules.job.sdk import JobSubmissionClient
        from ray.job_submission import JobStatus

        self.client = create_autospec(JobSubmissionClient, instance=True)
        self.client.list_jobs.return_value = [self.job(*other) for other in others]
        self.client.submit_job.return_value = "new"
        states = [JobStatus("PENDING"), JobStatus("RUNNING"), JobStatus(end)]
        self.client.get_job_status.side_effect = states
        self.client.get_job_info.return_value = self.job("new", end, "", code)
        monkeypatch.setattr("ray.job_submission.JobSubmissionClient", lambda address: self.client)

    @staticmethod
    def job(name, status, dag_run, code=None):
        from ray.job_submission import JobDetails, JobStatus, JobType

        return JobDetails(
            type=JobType.SUBMISSION,
            submission_id=name,
            status=JobStatus(status),
            entrypoint="",
            metadata={"dag_run": dag_run},
            driver_exit_code=code,
        )

    @property
    def followed(self) -> str:
        """The job whose end was waited for."""
        assert self.client.get_job_status.call_count == 3
        (job,) = {call.args[0] for call in self.client.get_job_status.call_args_list}
        self.client.get_job_info.assert_called_once_with(job)
        return job


@pytest.mark.parametrize(
    ("end", "code", "raised"),
    [
        ("SUCCEEDED", 0, None),
        ("FAILED", 1, RuntimeError),  # which Airflow tries again
        ("FAILED", 2, Fail),
        ("FAILED", 3, None),
        ("FAILED", 4, Skip),
        ("FAILED", 5, Fail),
        ("FAILED", None, RuntimeError),
        ("STOPPED", None, Fail),
    ],
)
def test_airflow_acts_on_how_the_job_ended(dag, monkeypatch, end, code, raised):
    jobs = Jobs(monkeypatch, end=end, code=code)
    with pytest.raises(raised) if raised else nullcontext():
        dag.label("scheduled__2026-11-25")
    assert jobs.followed == "new"
    assert jobs.client.submit_job.call_args.kwargs["entrypoint"] == dag.COMMAND


def test_airflow_checks_what_was_labelled(dag, monkeypatch):
    assert dag.order == [("label", "check")]
    jobs = Jobs(monkeypatch, end="FAILED", code=5)
    with pytest.raises(Fail, match="a person should look"):
        dag.check("scheduled__2026-11-25")
    assert jobs.client.submit_job.call_args.kwargs["entrypoint"] == dag.CHECK


def test_airflows_second_try_follows_the_job_of_the_first(dag, monkeypatch):
    first = Jobs(monkeypatch)
    dag.label("tonight")
    name = first.client.submit_job.call_args.kwargs["metadata"]["dag_run"]
    second = Jobs(monkeypatch, others=[("done", "FAILED", name), ("left", "RUNNING", name)])
    dag.label("tonight")
    assert second.followed == "left"
    second.client.submit_job.assert_not_called()


def test_control_airflow_follows_no_other_job(dag, monkeypatch):
    others = [("done", "FAILED", "fastbert_nightly tonight"), ("alien", "RUNNING", "tonight")]
    jobs = Jobs(monkeypatch, others=others)
    dag.label("tonight")
    assert jobs.followed == "new"
