"""An Airflow DAG that labels every night on a Ray cluster that stays, through its job server.

Wants Airflow 3.2 or later and, beside it, the cluster's version of `ray[default]`. The cluster's
token comes from the environment: RAY_AUTH_MODE=token and RAY_AUTH_TOKEN.
"""

import time
from datetime import datetime, timedelta

from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

ADDRESS = "http://fastbert-head-svc:8265"
COMMAND = (
    "cd /home/ray/fastbert-ray && python jobs/label.py"
    " --input s3://corpus/docs/ --output s3://corpus/labels --model s3://models/news"
    " --audit-rate 0.01 --gpus-per-replica 1 --replicas 1:8"
)
CHECK = "cd /home/ray/fastbert-ray && python jobs/report.py --output s3://corpus/labels --check"
#: Seconds between two looks at the job.
PAUSE = 30


def run_job(command: str, name: str) -> tuple[str, int | None]:
    """Run a command on the cluster, to its end. Returns the job's status and exit code.

    A try that dies leaves its job at work: the next try of the same DAG run, which has the same
    name, follows that job instead of submitting another one.
    """
    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient(ADDRESS)
    left = [
        job.submission_id
        for job in client.list_jobs()
        if (job.metadata or {}).get("dag_run") == name and not job.status.is_terminal()
    ]
    job = left[0] if left else client.submit_job(entrypoint=command, metadata={"dag_run": name})
    while not client.get_job_status(job).is_terminal():
        time.sleep(PAUSE)
    print(client.get_job_logs(job))
    end = client.get_job_info(job)
    return end.status.value, end.driver_exit_code


def judge(status: str, code: int | None) -> None:
    """Return if the job is done; else raise what makes Airflow skip, fail for good or try again."""
    if code == 3:
        print("Done, but shards could not be read or too many rows have an error: see the check.")
    elif code == 5:
        raise AirflowFailException("a person should look at the output: see the log")
    elif code == 4:
        raise AirflowSkipException("another run holds the output and labels what is there")
    elif code == 2:
        raise AirflowFailException("wrong usage or input: another try would end like this one")
    elif status == "STOPPED":
        raise AirflowFailException("somebody has stopped the job")
    elif status != "SUCCEEDED":  # also without a code, when the cluster has lost the job
        raise RuntimeError(f"the job ended as {status} with exit code {code}")


@dag(
    schedule="30 2 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,  # one run labels what all missed ones would have
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=10)},
)
def fastbert_nightly() -> None:
    @task
    def label(run_id: str | None = None) -> None:
        judge(*run_job(COMMAND, f"fastbert_nightly {run_id}"))

    @task
    def check(run_id: str | None = None) -> None:
        judge(*run_job(CHECK, f"fastbert_nightly check {run_id}"))

    label() >> check()


fastbert_nightly()
