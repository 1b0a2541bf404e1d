"""Who is to blame where rows fail: the rows, the model or the machine. Known texts show it."""

import json
import pickle
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.labelling import settings, table_of
from support.records import committed, record
from support.shards import random_texts, write_shard
from support.stages import InProcess, a_run

from fastbert.errors import FastBertError, InputError, MachineError
from fastbert.exits.rules import Threshold
from fastbert.inference.engine import Engine
from fastbert.inference.tokenizer import Tokenizer
from fastbert.tokenizer import load_tokenizer
from fastbert.weights import load_model, save_checkpoint
from pipelines.input.shards import find_shards
from pipelines.input.slices import Slice
from pipelines.labelling.classify import Classify
from pipelines.labelling.job import label
from pipelines.labelling.known import TEXTS
from pipelines.labelling.read import ReadTokenize
from pipelines.labelling.work import Work
from pipelines.output.ledger import Ledger
from pipelines.output.record import record_path
from pipelines.output.storage import Storage
from pipelines.running import stages
from pipelines.running.guard import Attempts, Guard
from pipelines.running.stages import Labelling, Reading, Stage

ROWS = 23


class Panic(BaseException):
    """As extensions in Rust raise."""


ERRORS = [RuntimeError("CUDA error"), torch.OutOfMemoryError("too\nlittle"), Panic("at 7")]


@pytest.fixture
def corpus(tmp_path) -> Path:
    """Every third row has a bridge, one has bread, one no text."""
    texts: list[str | None] = [
        text.replace("bridge", "city").replace("bread", "city") for text in random_texts(ROWS)
    ]
    texts[::3] = [f"{text} bridge" for text in texts[::3]]
    texts[4], texts[7] = f"{texts[4]} bread", None
    write_shard(tmp_path / "in" / "a.parquet", texts)
    return tmp_path / "in"


@pytest.fixture
def engine(monkeypatch):
    """All engines: what is put in its `error` is raised for rows of which `fails` is true, and
    `odd` ones have no number."""
    real = Engine.answer
    state = SimpleNamespace(calls=0, error=ERRORS[0], fails=lambda ids: False, odd=None)

    def answer(self, tokens, rules, *rest):
        state.calls += 1
        rows = np.split(tokens.ids, tokens.offsets[1:-1])
        if any(state.fails(ids) for ids in rows):
            raise state.error
        found = real(self, tokens, rules, *rest)
        if state.odd is not None:
            found[0].uncertainty[[state.odd(ids) for ids in rows]] = np.nan
        return found

    monkeypatch.setattr(Engine, "answer", answer)
    return state


@pytest.fixture(scope="module")
def has(checkpoint):
    """Whether a row of ids has a word."""
    ids = load_tokenizer(Path(checkpoint)).get_vocab()
    return lambda word: lambda row: ids[word] in row


@pytest.fixture
def unread(corpus) -> Work:
    (shard,) = find_shards([str(corpus)])
    return Work(Slice(shard, ROWS, 0, ROWS))


@pytest.fixture
def work(unread, checkpoint) -> Work:
    return ReadTokenize(a_run(checkpoint))(unread)


def errors_of(work: Work) -> dict[int, str]:
    return {i: error for i, error in enumerate(work.table["error"].to_pylist()) if error}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_nothing_is_committed_by_a_machine_that_fails(corpus, tmp_path, checkpoint, engine, error):
    """And the next night labels everything."""
    engine.fails, engine.error = lambda ids: True, error
    asked = settings(corpus, tmp_path / "out", checkpoint, speed=0.5, slice_rows=9)
    with pytest.raises(FastBertError, match=f"fails on known texts.*{type(error).__name__}") as met:
        label(asked, InProcess())
    assert met.value.exit_code == 1
    assert "\n" not in str(met.value)
    assert engine.calls == 2
    storage = Storage(str(tmp_path / "out"))
    assert not storage.paths("ledger", "") | storage.paths("table", "")
    engine.fails = lambda ids: False
    assert label(asked, InProcess())["rows"] == ROWS


@pytest.fixture(scope="module")
def replica(checkpoint) -> Classify:
    return Classify(a_run(checkpoint))


def test_rows_that_all_fail_are_to_blame_where_known_texts_do_not(work, replica, engine):
    known = replica._known
    good = {ids.tobytes() for ids in np.split(known.ids, known.offsets[1:-1])}
    engine.fails = lambda ids: ids.tobytes() not in good
    found = replica(work)
    errors = errors_of(found)
    assert errors.pop(7) == "text is null"
    assert set(errors.values()) == {"the model failed: RuntimeError: CUDA error"}
    assert len(errors) == ROWS - 1 == found.stats.model_errors == found.stats.error_rows - 1


def test_a_bad_row_alone_is_to_blame_whatever_it_raises(work, replica, engine, has):
    engine.fails, engine.error = has("bread"), MemoryError("too little")
    found = replica(work)
    assert errors_of(found) == {4: "the model failed: MemoryError: too little", 7: "text is null"}
    assert (found.stats.error_rows, found.stats.model_errors) == (2, 1)


@pytest.fixture
def overflowing(checkpoint, tmp_path) -> str:
    """A checkpoint of finite weights whose answers are not."""
    broken = load_model(Path(checkpoint))
    with torch.no_grad():
        broken.branches[-1].classifier.weight.fill_(3e38)
    save_checkpoint(broken, load_tokenizer(Path(checkpoint)), str(tmp_path / "broken"))
    return str(tmp_path / "broken")


def test_a_model_whose_answers_are_no_numbers_is_refused(corpus, tmp_path, overflowing):
    asked = settings(corpus, tmp_path / "out", overflowing, speed=0.0)
    with pytest.raises(
        InputError, match=r"model's answers to \d of \d known texts are not numbers"
    ):
        label(asked, InProcess())
    storage = Storage(str(tmp_path / "out"))
    assert not storage.paths("ledger", "") | storage.paths("table", "")


def test_it_is_where_easy_rows_have_answers(work, overflowing, replica):
    """Known texts go to full depth, whatever the thresholds of the run let leave before."""
    refused = Classify(a_run(overflowing))
    refused.rules = [Threshold.of([1.1, 0.0])]
    easy = refused(work)
    assert not easy.stats.model_errors
    refused.rules = [Threshold.of([np.median(easy.table["uncertainty"].drop_null()), 0.0])]
    known = refused.engine.classify(refused._known, refused.rules[0])
    assert np.isfinite(known.uncertainty).any()
    with pytest.raises(InputError, match="answers to 5 of 5 known texts"):
        refused(work)


@pytest.mark.parametrize(("word", "calls"), [("bread", 1), ("bridge", 2)])
def test_odd_answers_of_a_good_model_cost_their_rows(work, replica, engine, has, word, calls):
    """One is odd; of more, known texts show that the model is good."""
    engine.odd = has(word)
    found = replica(work)
    errors = errors_of(found)
    assert errors.pop(7) == "text is null"
    assert set(errors.values()) == {"the model's answer is not a number"}
    assert len(errors) == found.stats.model_errors == (1 if word == "bread" else 8)
    assert engine.calls == calls


@pytest.fixture
def tokenizer(monkeypatch):
    """All tokenizers; as `engine`."""
    real = Tokenizer.__call__
    state = SimpleNamespace(fails=lambda text: False)

    def call(self, texts, *rest):
        if any(map(state.fails, texts)):
            raise Panic("at 7")
        return real(self, texts, *rest)

    monkeypatch.setattr(Tokenizer, "__call__", call)
    return state


def test_a_tokenizer_that_fails_on_all_texts_is_the_machines(unread, checkpoint, tokenizer):
    reader = ReadTokenize(a_run(checkpoint))
    tokenizer.fails = lambda text: True
    with pytest.raises(MachineError, match="tokenizer fails on known texts.*Panic: at 7"):
        reader(unread)
    with pytest.raises(MachineError, match="tokenizer cannot be made ready.*Panic: at 7"):
        ReadTokenize(a_run(checkpoint))


def test_rows_that_a_tokenizer_fails_on_are_labelled_on_demand(
    corpus, tmp_path, checkpoint, tokenizer
):
    """No row but those of a slice with such errors is touched, and texts of none are none's."""
    tokenizer.fails = lambda text: "bread" in text
    asked = settings(corpus, tmp_path / "out", checkpoint, speed=0.5, slice_rows=6)
    first = label(replace(asked, run_id="first"), InProcess())
    assert (first["error_rows"], first["model_errors"]) == (2, 1)
    before = {r.path: r for r in committed(Ledger(Storage(asked.output)))}
    tokenizer.fails = lambda text: False
    assert label(asked, InProcess())["rows"] == 0
    assert label(replace(asked, retry_quarantined=True), InProcess())["rows"] == 0
    again = label(replace(asked, retry_errors=True), InProcess())
    assert (again["rows"], again["error_rows"], again["model_errors"]) == (6, 0, 0)
    assert [row["id"] for row in table_of(asked.output).to_pylist() if row["error"]] == [7]
    after = {r.path: r for r in committed(Ledger(Storage(asked.output)))}
    assert [path for path in after if after[path] != before[path]] == [
        "table/a.000000000000.parquet"
    ]
    assert label(replace(asked, retry_errors=True), InProcess())["rows"] == 0


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        ({"errors": {"the model failed: x": 2, "text is null": 1}}, 2),
        ({"errors": {"the tokenizer failed: x": 1}}, 1),
        ({"errors": {"the model's answer is not a number": 3}}, 3),
        ({"errors": {"given up: x": 2, "text is empty": 1}, "quarantined": True}, 2),
        ({"errors": {}, "quarantined": True}, 3),
        ({"errors": {"text is not UTF-8: x": 3}}, 0),
    ],
)
def test_records_of_earlier_releases_tell_by_their_reasons(tmp_path, kept, expected):
    ledger = Ledger(Storage(str(tmp_path)))
    old = record(error_rows=3)
    ledger.storage.put(old.path, b"rows")
    values = asdict(old) | kept
    del values["model_errors"]
    ledger.storage.put(record_path(old.shard, old.first_row), json.dumps(values).encode())
    assert [found.model_errors for found in committed(ledger)] == [expected]


LIMIT = 3


class Died(SystemExit):
    """A process has ended."""


class Fleet:
    """Processes of a stage, one after the other: where one ends, the next one takes the slice."""

    def __init__(self, stage: type[Stage], made) -> None:
        self.attempts, self.alive, self.deaths = Attempts(), True, 0
        self.kind = type("Made", (stage,), {"make": lambda *_: made})
        self.guard = Guard(self, LIMIT, 60.0)

    def __getattr__(self, name: str):
        """The attempts' methods; the dead note nothing."""
        method = getattr(self.attempts, name)
        return lambda *some: method(*some) if self.alive else None

    def die(self, *_) -> None:
        self.alive = False
        raise Died

    def __call__(self, work: Work):
        while True:
            self.alive = True
            try:
                return pickle.loads(pickle.dumps(self.kind(self.guard, "me")(work)))
            except Died:
                self.deaths += 1
                assert self.deaths < 20


@pytest.fixture
def start(monkeypatch):
    """Starts a fleet; what ends a process ends one of it."""

    def begin(stage: type[Stage], made) -> Fleet:
        fleet = Fleet(stage, made)
        monkeypatch.setattr(stages, "leave", fleet.die)
        return fleet

    return begin


@pytest.fixture
def fleet(start, replica) -> Fleet:
    assert len(replica._known) == len(TEXTS)  # tokenized before a test spoils that
    return start(Labelling, replica)


def test_a_machine_that_fails_ends_the_run(fleet, work, engine):
    """As many processes meet it as a slice may end: on the slice, then on known texts."""
    engine.fails = lambda ids: True
    found = fleet(work)
    assert isinstance(found, MachineError)
    assert "the model fails on known texts, too" in str(found)
    assert fleet.deaths == LIMIT - 1


def test_known_texts_that_kill_end_the_run(fleet, work, engine):
    engine.fails = fleet.die
    found = fleet(work)
    assert isinstance(found, MachineError)
    assert f"labelling known texts ended the process {LIMIT} times" in str(found)
    assert fleet.deaths == 1 + LIMIT


def test_a_slice_that_kills_where_known_texts_do_not_is_given_up(fleet, work, engine, has):
    engine.fails = lambda ids: has("bridge")(ids) and fleet.die()
    found = fleet(work)
    assert fleet.deaths == LIMIT
    assert found.stats.quarantined
    errors = errors_of(found)
    assert errors.pop(7) == "text is null"
    assert all(error.startswith("given up: labelling") for error in errors.values())
    assert len(errors) == ROWS - 1 == found.stats.model_errors


def test_so_is_one_after_which_known_texts_fail_in_its_process_only(fleet, work, engine, has):
    broken = set()

    def fails(ids) -> bool:
        if has("bridge")(ids):
            broken.add(fleet.deaths)
        return fleet.deaths in broken

    engine.fails = fails
    assert fleet(work).stats.quarantined
    assert fleet.deaths == LIMIT


@pytest.mark.parametrize("bad", [1, LIMIT - 1])
def test_another_process_may_do_what_one_could_not(fleet, work, engine, bad):
    """The slice is not blamed for those that failed on known texts as well."""
    engine.fails = lambda ids: fleet.deaths < bad
    found = fleet(work)
    assert fleet.deaths == bad
    assert errors_of(found) == {7: "text is null"}
    assert found.stats.retries == 1


def test_too_little_memory_beside_the_rows_takes_another_process(fleet, work, monkeypatch):
    real = Classify.__call__

    def call(self, work, *rest):
        if not fleet.deaths:
            raise MemoryError
        return real(self, work, *rest)

    monkeypatch.setattr(Classify, "__call__", call)
    assert errors_of(fleet(work)) == {7: "text is null"}
    assert fleet.deaths == 1


def test_a_model_that_is_refused_ends_no_process(fleet, work, engine):
    engine.odd = lambda ids: True
    found = fleet(work)
    assert (type(found), fleet.deaths) == (InputError, 0)


def test_readers_that_fail_on_known_texts_end_the_run(start, unread, checkpoint, tokenizer):
    readers = start(Reading, ReadTokenize(a_run(checkpoint)))
    tokenizer.fails = lambda text: True
    found = readers(unread)
    assert isinstance(found, MachineError)
    assert "the tokenizer fails on known texts, too" in str(found)
    assert readers.deaths == LIMIT - 1


def test_a_model_that_cannot_be_made_ready_is_one_error(checkpoint, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("too\nlittle")

    monkeypatch.setattr(Engine, "__init__", fail)
    with pytest.raises(MachineError, match="cannot be made ready on .*: OutOfMemoryError: too lit"):
        Classify(a_run(checkpoint))
