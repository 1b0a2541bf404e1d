"""Labelling with a classifier that has no exits: the output makes some, and keeps them.

What is made lies in OUTPUT/model, and what it was made of in the ledger: later runs use it again.
This file imports no torch: they need none to see that there is nothing to do.
"""

import json
import logging
import uuid
from dataclasses import asdict, dataclass, replace
from typing import Any

import msgspec

from fastbert.checkpoint import fetch_checkpoint, fingerprint, is_fastbert
from fastbert.errors import InputError
from fastbert.filesystem import redacted
from pipelines.labelling.placement import placed
from pipelines.labelling.signals import Stops
from pipelines.output.lock import RunLock
from pipelines.output.storage import Storage
from pipelines.running.apart import apart
from pipelines.running.executor import asks_for_ray, label_anywhere
from pipelines.settings import LabelSettings

log = logging.getLogger(__name__)

#: Below the output: the checkpoint, and, once it is complete, what it was made of.
MODEL, FACTS = "model", "ledger/model.json"


@dataclass(frozen=True)
class Made:
    """What the model of an output was made of."""

    classifier: str  # fingerprint
    source: str
    text_column: str
    pair_column: str | None
    max_disagreement: float
    tolerance: list[str]
    cutoff: list[str]
    make_exits: str


def label_with_any(settings: LabelSettings) -> dict[str, Any]:
    """The labelling job, with a FastBERT checkpoint or with a classifier that becomes one.

    Raises InputError, before anything is done, for what is neither, and where the output's model
    was made of another classifier, or for another promise.
    """
    folder = fetch_checkpoint(settings.model)
    if is_fastbert(folder):
        return label_anywhere(settings)
    if settings.speed or settings.operating_point:
        raise InputError(
            f"'{redacted(settings.model)}' has no exits yet, and --speed and --operating-point say "
            "which to use; leave them out: the output makes exits for --max-disagreement, or none "
            "with --make-exits never"
        )
    settings = placed(settings)
    made = Made(
        classifier=fingerprint(folder),
        source=redacted(settings.model),
        text_column=settings.text_column,
        pair_column=settings.pair_column,
        max_disagreement=settings.max_disagreement,
        tolerance=[*settings.tolerance],
        cutoff=[*settings.cutoff],
        make_exits=settings.make_exits,
    )
    output, storage = settings.output, Storage(settings.output)
    before = None if settings.change == "relabel" else _read(storage)
    if before is not None:
        _check(before, made, output)
    if before is None:
        if settings.dry_run:
            log.info("the output has no model yet: a run makes one, which a dry run does not")
            return {"dry_run": True, "output": redacted(output), "model_to_make": made.source}
        _make(settings, made, storage)
    found = label_anywhere(replace(settings, model=f"{output}/{MODEL}", speed=None))
    return found | {"classifier": made.source}


def _read(storage: Storage) -> Made | None:
    if (text := storage.read([FACTS]).get(FACTS)) is None:
        return None
    try:
        return msgspec.json.decode(text, type=Made)
    except msgspec.DecodeError as error:
        log.warning("%s cannot be read, the model is made again: %s", FACTS, error)
        return None


def _check(before: Made, now: Made, output: str) -> None:
    """Raises InputError where the output's model is not what is asked for."""
    names = ("classifier", "text_column", "pair_column", "max_disagreement", "tolerance", "cutoff")
    for name in (*names, "make_exits"):
        was, asked = getattr(before, name), getattr(now, name)
        if was == asked or (name == "make_exits" and "never" not in (was, asked)):
            continue
        raise InputError(
            f"the model in '{redacted(output)}/{MODEL}' was made for {name.replace('_', ' ')} "
            f"{was}, this run has {asked}; pass --relabel to make it again and label everything "
            "with it, another --output, or the same as before"
        )


def _make(settings: LabelSettings, made: Made, storage: Storage) -> None:
    """Make the model, while nobody else is at work on the output."""
    lock, stops = RunLock(storage, settings.run_id or f"model-{uuid.uuid4().hex[:4]}"), Stops()

    def work() -> None:
        lock.acquire()
        run = apart
        if asks_for_ray(settings):
            from pipelines.running.cluster import on_a_gpu  # and Ray

            run = on_a_gpu
        run("pipelines.checkpoints.making:make", settings)
        lock.check()
        storage.put(FACTS, _encoded(made))

    stops.during(work, lock.release)


def _encoded(made: Made) -> bytes:
    return json.dumps(asdict(made), indent=1).encode()
