"""What no one thought of: random plans, ledgers and files.

A few examples each, as a rule; `--fuzz-minutes 10` goes on for that long.
"""

import json
import multiprocessing
import resource
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.records import record
from support.shards import random_texts

from fastbert.errors import InputError
from pipelines.input.columns import InputColumns
from pipelines.input.shards import Shard, ShardError, find_shards
from pipelines.input.slices import Slice
from pipelines.labelling.plan import Plan, make_plan
from pipelines.labelling.read import ReadTokenize
from pipelines.labelling.work import Work
from pipelines.output.ledger import Committed, Ledger, Record, Stray, statistics, table_path
from pipelines.output.storage import Storage

#: Of the time that `--fuzz-minutes` gives, what each of the three gets.
SHARES = {"plan": 0.25, "ledger": 0.25, "file": 0.5}


@pytest.fixture
def repeat(request) -> Callable[[str, Callable[[], object]], int]:
    """Calls a property once, or again and again for its share of `--fuzz-minutes`."""
    minutes = request.config.getoption("--fuzz-minutes")

    def again(name: str, check: Callable[[], object]) -> int:
        end = time.monotonic() + 60 * minutes * SHARES[name]
        rounds = 0
        while not rounds or time.monotonic() < end:
            check()
            rounds += 1
        return rounds

    return again


def examples(number: int) -> settings:
    """Hypothesis settings: so many examples a round, others each time."""
    return settings(
        max_examples=number,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


# --- (a) the plan

RECIPES = [{"checkpoint": "x"}, {"checkpoint": "y"}]
NAMES = ["a", "b", "dt=1/a", "gone"]


def mostly(usual: Any, unusual: Any) -> st.SearchStrategy[Any]:
    """The usual value three times of four."""
    return st.sampled_from([usual, usual, usual, unusual])


versions = mostly("v1", "v2")
shard_rows = st.one_of(st.integers(20, 40), st.integers(20, 40), st.integers(0, 40), st.none())
shards_strategy = st.dictionaries(
    st.sampled_from(NAMES[:-1]), st.tuples(versions, shard_rows), min_size=1
)
places = st.tuples(st.sampled_from(NAMES), st.integers(0, 45))
commits = st.lists(
    st.tuples(
        places,
        st.integers(0, 20),
        versions,
        mostly(RECIPES[0], RECIPES[1]),
        mostly(False, True),
    ),
    min_size=3,
    max_size=20,
    unique_by=lambda commit: commit[0],  # a slice has one record
)


class Known(InputColumns):
    """Columns of shards that are never opened."""

    rows: dict[str, int | None] = {}

    def check(self, shard: Shard) -> int:
        rows = self.rows[shard.name]
        if rows is None:
            raise ShardError("spoiled")
        return rows


def url(name: str) -> str:
    return f"memory://in/{name}.parquet"


def planned(shards, commits, strays, slice_rows, retry) -> tuple[Plan, list[Record], Committed]:
    """The plan of a random history; every record lies inside what its version of the shard had."""
    columns = Known()
    columns.__dict__["rows"] = {name: rows for name, (_, rows) in shards.items()}
    records = []
    for (name, first), rows, version, recipe, quarantined in commits:
        total = shards[name][1] if name in shards and shards[name][0] == version else 60
        if total is None or first >= max(total, 1) or (total and not rows):
            continue  # no run has made such a record
        records.append(
            record(
                name,
                first,
                min(rows, total - first),
                source=url(name),
                version=version,
                shard_rows=total,
                recipe=recipe,
                quarantined=quarantined,
            )
        )
    held = {record.path for record in records}
    stray = {
        table_path(*place): Stray(place[0], has_record)
        for place, has_record in strays.items()
        if table_path(*place) not in held
    }
    found = [Shard(url(name), name, version) for name, (version, _) in sorted(shards.items())]
    output = Committed(records, stray)
    return make_plan(found, output, RECIPES[0], columns, slice_rows, True, retry), records, output


@given(
    shards_strategy,
    commits,
    st.dictionaries(places, st.booleans(), max_size=4),
    st.integers(1, 13),
    st.booleans(),
)
def plan_covers_every_row_once(shards, commits, strays, slice_rows, retry):
    try:
        plan, records, output = planned(shards, commits, strays, slice_rows, retry)
    except InputError:
        assert not any(rows is not None for _, rows in shards.values())
        return
    lists = (plan.up_to_date, plan.superseded, plan.replaced, plan.spared, plan.vanished)
    together = [(r.shard, r.first_row) for some in lists for r in some]
    assert sorted(together) == sorted((r.shard, r.first_row) for r in records)  # each in one list
    for up in plan.up_to_date:
        assert (up.version, up.recipe) == (shards[up.shard][0], RECIPES[0])
        assert not (retry and up.quarantined)
    kept = {r.path for some in (plan.up_to_date, plan.spared, plan.vanished) for r in some}
    removed = {r.path for r in plan.superseded} | set(plan.leftovers)
    todo = {piece.path for piece in plan.todo}
    assert len(todo) == len(plan.todo)
    assert not kept & removed
    assert not todo & (kept | removed)
    assert {r.path for r in plan.replaced} <= todo
    assert all(piece.rows <= slice_rows for piece in plan.todo)
    for name, (version, rows) in shards.items():
        mine = [(r.first_row, r.rows) for r in plan.up_to_date if r.shard == name]
        ours = [(p.first_row, p.rows) for p in plan.todo if p.shard.name == name]
        if url(name) in plan.bad_shards:
            assert not ours
            continue
        assert rows is not None or mine  # nobody opens a shard that is complete
        covered = sorted(i for first, n in mine + ours for i in range(first, first + n))
        total = rows if rows is not None else plan_rows(plan, name)
        assert covered == list(range(total)), f"{name} {version}"
        assert total or len(mine + ours) == 1
        # Nothing else may be in the table under the shard's name.
        spare = {r.path for r in records if r.shard == name} | {
            path for path, stray in output.stray.items() if stray.shard == name
        }
        assert spare - kept - removed - todo == set()


def plan_rows(plan: Plan, name: str) -> int:
    return next(r.shard_rows for r in plan.up_to_date if r.shard == name)


def test_the_plan_covers_every_row_once(repeat):
    rounds = repeat("plan", examples(150)(plan_covers_every_row_once))
    print(f"plan: {rounds} rounds of 150 examples")


# --- (b) the ledger's reader

odd_values = st.sampled_from(
    [-1, 0, 1, 1.5, 2**70, True, None, "x", "0", "../x", "", [], {}, [None], ["x"], [1, -1, 1]]
)
names_of_fields = st.sampled_from([field.name for field in fields(Record)])
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | odd_values,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
RECORD = record()
mutations = st.dictionaries(names_of_fields, json_values, max_size=3)
cuts = st.tuples(st.integers(0, 2000), st.integers(0, 40), st.binary(max_size=6))


def cut(data: bytes, where: tuple[int, int, bytes]) -> bytes:
    """Some bytes replaced by others."""
    at = where[0] % (len(data) + 1)
    return data[:at] + where[2] + data[at + where[1] :]


def encoded(values: dict[str, Any], where: tuple[int, int, bytes] | None) -> bytes:
    text = json.dumps(asdict(RECORD) | values, indent=1).encode()
    return text if where is None else cut(text, where)


documents = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([b"[" * 100_000, b'{"a":' * 100_000, b"null", b"NaN", b'"\\ud800"']),
    st.builds(lambda value: json.dumps(value).encode(), json_values),
    st.builds(encoded, mutations, st.none() | cuts),
    st.builds(lambda name, value: encoded({name: value}, None), names_of_fields, odd_values),
    st.builds(encoded, st.just({}), cuts),
)


def is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def well_formed(found: Record) -> bool:
    """Every field is of its type, and the record agrees with itself."""
    for name, kind in get_type_hints(Record).items():
        value = getattr(found, name)
        if kind == list[int]:
            fine = isinstance(value, list) and all(map(is_count, value))
        elif kind == list[list[int]]:
            fine = all(isinstance(v, list) and all(map(is_count, v)) for v in value)
        elif kind == list[dict[str, int]]:
            fine = all(isinstance(v, dict) and all(map(is_count, v.values())) for v in value)
        elif kind == dict[str, int]:
            fine = isinstance(value, dict) and all(map(is_count, value.values()))
        elif kind == dict[str, Any]:
            fine = isinstance(value, dict)
        elif kind is float:
            fine = type(value) in (int, float)
        elif kind is int:
            fine = type(value) is int and value >= 0
        else:
            fine = type(value) is kind
        if not fine:
            return False
    return (
        found.path == table_path(found.shard, found.first_row)
        and found.first_row + found.rows <= found.shard_rows
        and len(found.exits) == len(found.exit_tokens) == len(found.exit_flops)
    )


class Held(Storage):
    """An output in a dictionary."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects

    def paths(self, folder: str, suffix: str) -> set[str]:
        return {p for p in self.objects if p.startswith(f"{folder}/") and p.endswith(suffix)}

    def read(self, paths: list[str]) -> dict[str, bytes]:
        return {path: self.objects[path] for path in paths}


@given(documents, documents)
def ledger_reader_takes_only_records(document, other):
    sane = record("sane")
    objects = {
        f"ledger/slices/{RECORD.slice_id}.json": document,
        "ledger/slices/elsewhere.json": other,
    }
    objects[f"ledger/slices/{sane.slice_id}.json"] = json.dumps(asdict(sane)).encode()
    objects |= {RECORD.path: b"rows", sane.path: b"rows", "table/x.parquet": b""}
    found = Ledger(Held(objects)).committed()
    assert sane in found.records
    for each in found.records:
        assert well_formed(each), each
    stray = {sane.path, RECORD.path} - {each.path for each in found.records}
    assert found.stray.keys() == stray
    # What the reader takes, the plan and the statistics can use.
    shards = [Shard(RECORD.source, "a", "etag:1"), Shard(sane.source, "sane", "etag:1")]
    columns = Known()
    columns.__dict__["rows"] = {"a": 10, "sane": 10}
    plan = make_plan(shards, found, sane.recipe, columns, 4, True)
    kept = plan.up_to_date + plan.superseded + plan.replaced + plan.vanished
    assert len(kept) == len(found.records)
    assert statistics(found.records).num_rows


def test_the_ledger_reader_takes_only_records(repeat):
    rounds = repeat("ledger", examples(150)(ledger_reader_takes_only_records))
    print(f"ledger: {rounds} rounds of 150 examples")


@pytest.mark.parametrize(
    "values",
    [
        {"rows": "x"},
        {"rows": [1]},
        {"rows": -1},
        {"rows": True},
        {"first_row": 1.0},
        {"shard": 7},
        {"exits": "abc"},
        {"exits": [1, "2", 3]},
        {"exits": [1]},
        {"recipe": []},
        {"quarantined": "no"},
        {"path": "table/other.000000000000.parquet"},
        {"run_id": "../../x"},
        {"run_id": "\ud800"},
        {"tokens": 2**70},
        {"shard_rows": 5},
        {"device_seconds": None},
    ],
)
def test_a_record_of_wrong_types_counts_as_absent(values):
    path = values.get("path", RECORD.path)
    name = f"ledger/slices/{RECORD.slice_id}.json"
    objects = {name: encoded({}, None), path: b"rows", RECORD.path: b"rows"}
    assert Ledger(Held(objects)).committed().records == [RECORD]
    objects[name] = encoded(values, None)
    assert Ledger(Held(objects)).committed().records == []


# --- (c) the reader of shards


ROWS = 62


def originals(folder: Path) -> list[Path]:
    """Valid files, each of another make."""
    texts = [*random_texts(ROWS - 2, seed=3), None, ""]
    table = pa.table(
        {
            "text": texts,
            "id": range(len(texts)),
            "tags": [["a", None], [], None, ["b"]] * 15 + [[], []],
            "kind": pa.array(["x", "y"] * 31).dictionary_encode(),
        }
    )
    makes = {
        "plain": dict(compression="none", use_dictionary=False),
        "snappy": dict(row_group_size=17),
        "zstd-v2": dict(compression="zstd", data_page_version="2.0", data_page_size=64),
        "checksums": dict(compression="none", write_page_checksum=True),
        "delta": dict(
            use_dictionary=False,
            column_encoding={"text": "DELTA_BYTE_ARRAY", "id": "DELTA_BINARY_PACKED"},
        ),
        "indexes": dict(write_page_index=True, store_schema=False, row_group_size=31),
    }
    paths = []
    for name, options in makes.items():
        paths.append(folder / f"{name}.parquet")
        pq.write_table(table, paths[-1], **options)
    return paths


def spoiled(data: bytes, generator: np.random.Generator) -> bytes:
    """One to three flips, cuts, insertions or runs of zeros; half of them in the footer."""
    for _ in range(generator.integers(1, 4)):
        if not data:
            break
        footer = max(0, len(data) - 8 - int.from_bytes(data[-8:-4], "little"))
        first = footer if generator.random() < 0.5 and footer < len(data) else 0
        at = int(generator.integers(first, len(data)))
        size = int(generator.integers(1, 9))
        match generator.integers(0, 12):
            case 0:
                data = data[:at]
            case 1:
                data = data[:at] + generator.bytes(size) + data[at:]
            case 2:
                data = data[:at] + data[at + size :]
            case 3:
                data = data[:at] + bytes(size) + data[at + size :]
            case _:
                data = data[:at] + bytes([data[at] ^ 1 << generator.integers(8)]) + data[at + 1 :]
    return data


def serve(connection: Any, checkpoint: str) -> None:
    """A process that may die: takes paths, does what the driver does, then what a reader does."""
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
    read = ReadTokenize(checkpoint, 32, InputColumns())
    connection.send("ready")
    while path := connection.recv():
        try:
            (shard,) = find_shards([path])
            rows = InputColumns().check(shard)
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
        if work.table is None:
            return f"refused: {work.failure}"
        found += Work.from_block(work.to_block()).table.num_rows
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


@pytest.fixture
def reader(checkpoint):
    """A reader in a process of its own."""
    found = Reader(checkpoint)
    yield found
    found.stop()


def test_spoiled_files_are_refused_or_read_whole(repeat, reader, tmp_path, request):
    makes = [path.read_bytes() for path in originals(tmp_path)]
    seeds = np.random.SeedSequence(None if request.config.getoption("--fuzz-minutes") else 7)
    generator = np.random.default_rng(seeds)
    folder = tmp_path / "in"
    folder.mkdir()
    path = folder / "x.parquet"
    outcomes: Counter[str] = Counter()
    wrong: dict[str, str] = {}

    def some() -> None:
        for k in range(60):
            data = spoiled(makes[k % len(makes)], generator)
            path.write_bytes(data)
            said = reader(str(path))
            outcomes[said.partition(":")[0]] += 1
            # A crash costs the shard only where readers run; in the driver it would end the job.
            if not said.startswith(("read", "refused", "crash in the reader")):
                wrong.setdefault(said, data.hex())

    repeat("file", some)
    print(f"files: {dict(outcomes)}")
    for said, data in wrong.items():
        print(said, data)
    assert not wrong
    assert outcomes["read"]
    assert outcomes["refused"]


def test_the_makes_of_files_can_be_read(reader, tmp_path):
    for path in originals(tmp_path):
        assert reader(str(path)) == "read"
