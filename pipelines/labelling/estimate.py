"""Estimates of a run's time: by the ledger's last run, or by a probe on this machine."""

import json
import time
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fastbert.exits.operating_point import WHERE, OperatingPoint
from fastbert.inference.engine import DTYPES, Engine
from fastbert.inference.precision import device, device_name, resolve
from fastbert.inference.tokenizer import Tokenizer
from fastbert.weights import load_checkpoint
from pipelines.input.slices import Slice, SliceReader
from pipelines.input.texts import usable_texts
from pipelines.input.unreadable import ShardError
from pipelines.labelling.run import columns_of
from pipelines.output.identity import Identity, questions_text
from pipelines.output.storage import Storage

#: Rows of a probe.
_ROWS = 200


@dataclass(frozen=True)
class Estimate:
    """Seconds of one replica."""

    by: str  # source of the estimate
    startup_seconds: float  # before the first slice is labelled
    seconds: float  # with exits
    full_depth_seconds: float  # without exits

    def in_words(self) -> str:
        """The estimate in words."""
        return (
            f"about {self.seconds:,.0f} s of one replica, {self.full_depth_seconds:,.0f} s at full "
            f"depth, after {self.startup_seconds:,.0f} s of start-up (by {self.by})"
        )

    def summary(self) -> dict[str, Any]:
        """For the JSON summary."""
        return {k: round(v, 3) if isinstance(v, float) else v for k, v in asdict(self).items()}


def by_last_run(storage: Storage, identity: Identity, rows: int) -> Estimate | None:
    """Estimate from the last run of this model at this point; None if there is none."""
    runs = storage.read(sorted(storage.paths("ledger/runs", ".json"))).values()
    known = [run for run in map(_parsed, runs) if _usable(run, identity)]
    if not known:
        return None
    last = max(known, key=lambda run: str(run["started_at"]))
    seconds = rows * last["device_seconds"] / last["rows"]
    return Estimate(
        by=f"run {last['run_id']}",
        startup_seconds=last["startup_seconds"],
        seconds=seconds,
        full_depth_seconds=seconds * last["full_flops"] / (last["flops"] + last["audit_flops"]),
    )


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _usable(run: dict[str, Any], identity: Identity) -> bool:
    """Whether a summary has the necessary fields, and is of this model and point."""
    numbers = ("rows", "device_seconds", "flops", "full_flops")
    same = all(run.get(key) == getattr(identity, key) for key in ("checkpoint", *WHERE))
    same &= run.get("questions") == questions_text(identity)
    known = all(isinstance(run.get(k), int | float) and run[k] > 0 for k in numbers)
    return same and known and isinstance(run.get("startup_seconds"), int | float)


def by_probe(
    checkpoint: Path, identity: Identity, point: OperatingPoint, asked: str, todo: list[Slice]
) -> Estimate | None:
    """Estimate from labelling the first rows of the plan now; None if they cannot be read, or have
    no text. Raises InputError for a checkpoint that cannot label."""
    started = time.monotonic()
    columns = replace(columns_of(identity), carry=())
    model, tokenizer = load_checkpoint(checkpoint, identity.pair_column is not None)
    dtype = DTYPES[resolve(asked, device(), point.proven_in)]
    engine = Engine(model, device(), dtype, ranges=point.ranges)
    texts: list[list[str]] = [[] for _ in columns.texts]
    with suppress(ShardError), closing(SliceReader(columns)) as reader:
        for table in (table for piece in todo for table in reader.read(piece)):
            for column, side in zip(texts, usable_texts(table, columns.texts)[0], strict=True):
                column += side
            if len(texts[0]) >= _ROWS:
                break
    first, *second = [column[:_ROWS] for column in texts]
    if not first:
        return None
    tokenize = Tokenizer(tokenizer, identity.windowing)
    tokens = tokenize(first, second[0] if second else None, identity.max_length)
    engine.answer(tokens, point.rules())  # warms up
    ready = time.monotonic()
    engine.answer(tokens, point.rules())
    done = time.monotonic()
    engine.full_depth(tokens)
    scale = sum(piece.rows for piece in todo) / len(first)
    return Estimate(
        by=f"a probe of {len(first)} rows on {device_name(device())} here",
        startup_seconds=ready - started,
        seconds=scale * (done - ready),
        full_depth_seconds=scale * (time.monotonic() - done),
    )
