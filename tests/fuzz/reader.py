"""A reader of shards in a process of its own, which may die."""

import multiprocessing
import resource
from typing import Any

from support.stages import a_run

from pipelines.input.columns import InputColumns
from pipelines.input.shards import Shard, find_shards
from pipelines.input.slices import Slice, scan
from pipelines.input.unreadable import ShardError
from pipelines.labelling.read import ReadTokenize
from pipelines.labelling.work import Failed, Work, from_block, to_block

ROWS = 62


def serve(connection: Any, checkpoint: str) -> None:
    """A process that may die: takes paths, does what the driver does, then what a reader does."""
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
    read = ReadTokenize(a_run(checkpoint))
    connection.send("ready")
    while path := connection.recv():
        try:
            (shard,) = find_shards([path])
            rows = scan(shard, InputColumns()).rows
            connection.send(rows)
            connection.send(read_slices(read, shard, rows))
        except ShardError as error:
            connection.send(f"refused: {error}")
        except BaseException as error:
            connection.send(f"raised: {error!r}")


def read_slices(read: ReadTokenize, shard: Shard, rows: int) -> int | str:
    """The rows of all slices, or why there are not all of them."""
    found = 0
    for first in range(0, rows, 25):
        work = read(Work(Slice(shard, rows, first, min(25, rows - first))))
        if isinstance(work, Failed):
            return f"refused: {work.reason}"
        found += from_block(to_block(work)).table.num_rows
    return found


class Reader:
    """`serve`, in a new process whenever one has died."""

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipelines.labelling.read"])

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint
        self.process: Any = None

    def __call__(self, path: str) -> str:
        """What became of a file: "read", or what went wrong in words."""
        if self.process is None:
            self.start()
        rows = None
        try:
            self.ours.send(path)
            for _ in range(2):
                if not self.ours.poll(60):
                    self.stop()
                    return "hangs"
                answer = self.ours.recv()
                if isinstance(answer, str):
                    return answer
                if rows is not None:
                    return "read" if answer == rows == ROWS else f"{answer} of {rows} rows"
                rows = answer
            raise AssertionError("unreachable")
        except (EOFError, OSError):
            self.process.join()
            code, self.process = self.process.exitcode, None
            return f"crash in the {'driver' if rows is None else 'reader'} ({code})"

    def start(self) -> None:
        self.ours, theirs = self.context.Pipe()
        self.process = self.context.Process(target=serve, args=(theirs, self.checkpoint))
        self.process.start()
        theirs.close()
        assert self.ours.recv() == "ready"

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None
