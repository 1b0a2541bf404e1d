"""Two jobs on one output, started in the same moment, again and again: who works, who is refused?

Claim: one works, the other is refused with exit code 4, each time, wherever the store creates an
object only-if-absent in one step. Swift does not; what happens there is measured.

    pip install "moto[server]"
    python -m benchmarks.faults.same_second --store local --store moto --store swift \\
        --output benchmarks/results/same_second.json

Two processes meet at a barrier and call `label()`, as a job does, with the stages in the process
instead of on Ray: what is tried is who may begin. Heartbeats come every half second, not every 10,
so that the one who is refused need not wait for one. Stages take 3 s, so that no run is done before
the other begins. Afterwards the table must hold each row once.
"""

import contextlib
import json
import logging
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import fsspec
import pyarrow.parquet as pq
from support.object_store import ObjectStore
from support.shards import random_texts, write_shard

from benchmarks.faults.chaos import write_checkpoint
from benchmarks.support.measure import machine

BUCKET, ROWS = "moment", 12


@contextlib.contextmanager
def open_store(kind: str, work: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A root for outputs, and the environment that reaches it."""
    if kind == "local":
        yield str(work / "outputs"), {}
    elif kind == "swift":
        with ObjectStore(work / "swift") as swift:
            swift.make_bucket(BUCKET)
            yield f"s3://{BUCKET}", swift.environment
    else:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        try:
            wait_for(port)
            os.environ |= environment
            import s3fs

            s3fs.S3FileSystem(skip_instance_cache=True).mkdir(BUCKET)
            yield f"s3://{BUCKET}", environment
        finally:
            server.kill()
            server.wait()


def wait_for(port: int) -> None:
    """Wait until a process listens."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.2)
    raise click.ClickException("moto does not start")


def contender(
    barrier: Any, codes: Any, root: str, work: str, tries: int, environment: dict[str, str]
) -> None:
    """One of the two: an exit code per try."""
    os.environ |= environment
    logging.basicConfig(level=logging.ERROR)
    from support.stages import InProcess

    import pipelines.labelling.job
    from fastbert.errors import FastBertError
    from pipelines.settings import LabelSettings

    slowly = InProcess(lambda: time.sleep(3))
    pipelines.labelling.job.RunLock = partial(pipelines.labelling.job.RunLock, beat=0.5)
    for number in range(tries):
        settings = LabelSettings(
            input=(f"{work}/in",),
            output=f"{root}/{number}",
            model=f"{work}/checkpoint",
            speed=0.5,
            precision="fp32",
        )
        barrier.wait()
        try:
            code = pipelines.labelling.job.label(settings, slowly)["exit_code"]
        except FastBertError as error:
            code = error.exit_code
        codes.put((number, code))


def ids_in(output: str) -> list[int]:
    """The ids of all labelled rows of an output."""
    import pyarrow as pa

    from pipelines.output.storage import Storage

    storage = Storage(output)
    found = storage.read(sorted(storage.paths("table", ".parquet"))).values()
    return [i for data in found for i in pq.read_table(pa.BufferReader(data))["id"].to_pylist()]


def compete(kind: str, tries: int, work: Path) -> dict[str, Any]:
    """All tries on one store."""
    with open_store(kind, work) as (root, environment):
        context = multiprocessing.get_context("spawn")
        barrier, codes = context.Barrier(2), context.Queue()
        arguments = (barrier, codes, root, str(work), tries, environment)
        pair = [context.Process(target=contender, args=arguments) for _ in range(2)]
        for process in pair:
            process.start()
        found: dict[int, list[int]] = {}
        for _ in range(2 * tries):
            number, code = codes.get(timeout=300)
            found.setdefault(number, []).append(code)
        for process in pair:
            process.join()
        os.environ |= environment
        whole = [sorted(ids_in(f"{root}/{number}")) == list(range(ROWS)) for number in found]
    outcomes = Counter(" and ".join(map(str, sorted(pair))) for pair in found.values())
    return {"tries": tries, "exit_codes": dict(outcomes), "tables_with_each_row_once": sum(whole)}


@click.command()
@click.option("--store", multiple=True, type=click.Choice(["local", "moto", "swift"]))
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--tries", default=50, show_default=True)
def main(store: tuple[str, ...], output: Path, tries: int) -> None:
    """See the top of this file."""
    result: dict[str, Any] = {
        "command": "python -m benchmarks.faults.same_second "
        + " ".join(f"--store {kind}" for kind in store)
        + f" --tries {tries} --output benchmarks/results/same_second.json",
        "machine": machine("pyarrow"),
        "stores": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_shard(work / "in" / "a.parquet", random_texts(ROWS))
        write_checkpoint(work / "checkpoint")
        for kind in store:
            fsspec.get_filesystem_class("s3").clear_instance_cache()  # it remembers the last store
            result["stores"][kind] = compete(kind, tries, work)
            print(kind, result["stores"][kind], flush=True)
            output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
