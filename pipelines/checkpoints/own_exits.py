"""Labelling with any models: for a classifier without exits, the output makes and keeps them.

The made model is in OUTPUT/model, and its origin in the ledger: later runs reuse it. This file
imports no torch, so that a run without new files needs none.
"""

import json
import logging
import uuid
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from fastbert.checkpoint import fetch_checkpoint, fingerprint, is_fastbert
from fastbert.errors import InputError
from fastbert.exits.question import question_name
from fastbert.filesystem import redacted
from pipelines.checkpoints.settings import LabelAnySettings
from pipelines.labelling.placement import model_placed, placed
from pipelines.labelling.signals import Stops
from pipelines.output.lock import RunLock
from pipelines.output.storage import Storage
from pipelines.running.apart import apart
from pipelines.running.executor import asks_for_ray, label_anywhere
from pipelines.settings import Labelling, LabelSettings

log = logging.getLogger(__name__)

#: Below the output: the checkpoint, and, once it is complete, its origin.
MODEL, FACTS = "model", "ledger/model.json"
#: Exit code of a run that is done, except for unreadable input: of several runs, it takes
#: precedence.
_UNUSABLE = 3


@dataclass(frozen=True)
class Made:
    """The origin of an output's model."""

    classifiers: list[str]  # fingerprints
    sources: list[str]
    text_column: str
    pair_column: str | None
    max_disagreement: float
    tolerance: list[str]
    cutoff: list[str]
    make_exits: str


def label_with_any(settings: LabelAnySettings) -> dict[str, Any]:
    """The labelling job, with FastBERT checkpoints or with classifiers that become one.

    Returns the summary; for models with separate outputs, `outputs` with the summary of each by
    name. Raises InputError, before any work, for invalid models, and if an output's model was made
    of other classifiers, or for another promise.
    """
    settings = replace(placed(settings), model=tuple(map(model_placed, settings.model)))
    folders = [fetch_checkpoint(each) for each in settings.model]
    if len(folders) == 1 or _together(settings, folders):
        return _label(settings, folders)
    alone = zip(_of_each(settings), folders, strict=True)
    found = {PurePosixPath(each.output).name: _label(each, [folder]) for each, folder in alone}
    codes = [summary.get("exit_code", 0) for summary in found.values()]
    return {"outputs": found, "exit_code": _UNUSABLE if _UNUSABLE in codes else max(codes)}


def _together(settings: LabelAnySettings, folders: list[Path]) -> bool:
    """Whether several models share one output, which answers all of their questions in one pass.
    Existing outputs keep their layout."""
    storage = Storage(settings.output)
    before = _read(storage)
    if before is not None and len(before.sources) > 1:
        return True
    if before is not None or storage.paths("table", ".parquet"):
        raise InputError(
            f"'{redacted(settings.output)}' holds the labels of one model, expected an --output "
            "for several, with a folder for each; pass another --output, or that model alone"
        )
    begun = any(Storage(each.output).paths("ledger", ".json") for each in _of_each(settings))
    if begun or any(map(is_fastbert, folders)):
        return False
    places = [str(folder) for folder in folders]
    return bool(
        apart("pipelines.checkpoints.teachers:one_pass", places, bool(settings.pair_column))
    )


def _of_each(settings: LabelAnySettings) -> list[LabelAnySettings]:
    """The settings of each model, with its own output below the output, and with its values of
    --tolerance and --cutoff. Raises InputError for names that are equal or unknown."""
    names = [question_name(model) for model in settings.model]
    if len({name.casefold() for name in names}) < len(names):
        raise InputError(
            f"the models are named {', '.join(names)}, but each needs an output of its own name: "
            "rename their folders, or label with one at a time"
        )
    for text in (*settings.tolerance, *settings.cutoff):
        name, equals, _ = text.partition("=")
        if not equals or name not in names:
            raise InputError(
                f"--tolerance or --cutoff is '{text}', expected the name of a model before it, as "
                f"in {names[0]}={text.rpartition('=')[2]}; the models are {', '.join(names)}"
            )
    return [
        replace(
            settings,
            model=(model,),
            output=f"{settings.output}/{name}",
            tolerance=_said_of(name, settings.tolerance),
            cutoff=_said_of(name, settings.cutoff),
        )
        for name, model in zip(names, settings.model, strict=True)
    ]


def _said_of(name: str, values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(text.partition("=")[2] for text in values if text.startswith(f"{name}="))


def _label(settings: LabelAnySettings, folders: list[Path]) -> dict[str, Any]:
    """Fill one output, with one checkpoint, or with classifiers that answer together."""
    if len(folders) == 1 and is_fastbert(folders[0]):
        return label_anywhere(_job(settings, settings.model[0]))
    names = ", ".join(map(redacted, settings.model))
    if settings.speed or settings.operating_point:
        raise InputError(
            f"'{names}' has no exits, which --speed and --operating-point need; leave them out: "
            "the output makes exits for --max-disagreement, or none with --make-exits never"
        )
    made = Made(
        classifiers=list(map(fingerprint, folders)),
        sources=list(map(redacted, settings.model)),
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
            what = {"dry_run": True, "output": redacted(output), "models_to_make": made.sources}
            return what | {"estimate": _call_making(settings)}
        _make(settings, made, storage)
    found = label_anywhere(replace(_job(settings, f"{output}/{MODEL}"), speed=None))
    return found | {"classifiers": made.sources}


def _job(settings: LabelAnySettings, model: str) -> LabelSettings:
    """The labelling job's settings."""
    shared = {each.name: getattr(settings, each.name) for each in fields(Labelling)}
    return LabelSettings(**shared, model=model)


def _read(storage: Storage) -> Made | None:
    if (text := storage.read([FACTS]).get(FACTS)) is None:
        return None
    try:
        return msgspec.json.decode(text, type=Made)
    except msgspec.DecodeError as error:
        log.warning("cannot read %s, making the model again: %s", FACTS, error)
        return None


def _check(before: Made, now: Made, output: str) -> None:
    """Raises InputError if the output's model is not the requested one."""
    names = ("classifiers", "text_column", "pair_column", "max_disagreement", "tolerance", "cutoff")
    for name in (*names, "make_exits"):
        was, asked = getattr(before, name), getattr(now, name)
        if was == asked or (name == "make_exits" and "never" not in (was, asked)):
            continue
        raise InputError(
            f"the model in '{redacted(output)}/{MODEL}' was made for {name.replace('_', ' ')} "
            f"{was}, this run has {asked}; pass --relabel to make it again and label everything "
            "with it, another --output, or the same as before"
        )


def _make(settings: LabelAnySettings, made: Made, storage: Storage) -> None:
    """Make the model, while this run holds the output's lock."""
    lock, stops = RunLock(storage, settings.run_id or f"model-{uuid.uuid4().hex[:4]}"), Stops()

    def work() -> None:
        lock.acquire()
        _call_making(settings)
        lock.check()
        storage.put(FACTS, _encoded(made))

    stops.during(work, lock.release)


def _call_making(settings: LabelAnySettings) -> Any:
    """The result of `making.make`, in a process of its own, on a GPU of Ray's if there is one."""
    run = apart
    if asks_for_ray(settings):
        from pipelines.running.cluster import on_a_gpu  # imports Ray

        run = on_a_gpu
    return run("pipelines.checkpoints.making:make", settings)


def _encoded(made: Made) -> bytes:
    return json.dumps(asdict(made), indent=1).encode()
