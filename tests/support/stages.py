"""The three stages of labelling in this process, with its trips between processes, without Ray."""

from collections.abc import Callable, Generator
from functools import cache
from pathlib import Path
from pkgutil import resolve_name

from fastbert.checkpoint import fingerprint
from pipelines.input.slices import Slice
from pipelines.labelling.classify import Classify
from pipelines.labelling.commit import Commit
from pipelines.labelling.read import ReadTokenize
from pipelines.labelling.run import Resources, Run
from pipelines.labelling.work import Failed, Outcome, Work, from_block, to_block
from support.records import identity
from support.shards import random_texts

MAX_LENGTH = 32
TEXTS = [None, *random_texts(20, seed=3), "", "  \t", *random_texts(9, seed=4)]
ROWS = len(TEXTS)


def a_run(checkpoint: str = "", output: str = "", run_id: str = "night-1", **changes) -> Run:
    """A run in float32 with the checkpoint; `changes` of it or of its identity."""
    known = {name: changes.pop(name) for name in [*changes] if name in Run.__dataclass_fields__}
    if checkpoint:
        changes = {"checkpoint": fingerprint(Path(checkpoint))} | changes
    parts = dict(
        model=checkpoint,
        output=output,
        run_id=run_id,
        identity=identity(**{"max_length": MAX_LENGTH, "truncated": True} | changes),
        operating_point="speed 0.5",
        audit_rate=0.0,
        precision="fp32",
    )
    return Run(**parts | known)


def run(shard, checkpoint, first=0, rows=ROWS, thresholds=(0.5, 0.5), audit=0.0) -> Work | Failed:
    this = a_run(checkpoint, thresholds=list(thresholds), audit_rate=audit)
    work = ReadTokenize(this)(Work(Slice(shard, len(TEXTS), first, rows)))
    return work if isinstance(work, Failed) else Classify(this)(from_block(to_block(work)))


@cache
def _reader(*key) -> ReadTokenize:
    """Loaded once; it keeps its place between jobs, as actors do between slices."""
    return ReadTokenize(_runs[key])


@cache
def _replica(*key) -> Classify:
    return Classify(_runs[key])


_runs: dict[tuple, Run] = {}


class InProcess:
    """An executor without processes; `meanwhile` happens between plan and read."""

    def __init__(self, meanwhile: Callable[[], object] | None = None) -> None:
        self.meanwhile = meanwhile

    def resources(self, settings) -> Resources:
        if self.meanwhile:
            self.meanwhile()
        return Resources(
            low=1, high=1, replica_gpus=0, replica_cpus=1, readers=1, reader_cpus=0.5,
            attempts=3, timeout=60.0,
        )  # fmt: skip

    def close(self) -> None:
        pass

    def under_way(self) -> float:
        return 0.0

    def call(self, function, *arguments):
        return resolve_name(function)(*arguments)

    def run(self, run, slices, resources) -> Generator[Outcome, None, None]:
        key = (
            run.model,
            str(run.identity),
            str(run.fields),
            run.audit_rate,
            run.precision,
            run.emulated,
        )
        _runs[key] = run
        for piece in slices:
            item = Work(piece)
            for stage in (_reader(*key), _replica(*key), Commit(run)):
                if isinstance(item, Work):
                    item = from_block(to_block(stage(item)))
            yield item
