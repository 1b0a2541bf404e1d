"""The labelling job on one machine and on a local Ray: whole, repeated, changed."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.labelling import label_command, settings, table_of
from support.models import LAYERS, tiny_fastbert, tiny_tokenizer, with_bag
from support.object_store import ObjectStore
from support.records import committed
from support.reference import all_exits, answer, gap_threshold
from support.shards import random_texts, write_shard

from fastbert.errors import InputError
from fastbert.inference.tokens import tokenize
from fastbert.tokenizer import load_tokenizer
from fastbert.weights import load_model, save_checkpoint
from pipelines.input.shards import Shard
from pipelines.input.slices import Slice
from pipelines.labelling.job import label
from pipelines.output.ledger import Ledger
from pipelines.output.storage import Storage
from pipelines.running.local import LocalExecutor
from pipelines.running.ray_executor import RayExecutor, share_out, tell_many

pytestmark = pytest.mark.integration

LOCAL = LocalExecutor()

ROOT = Path(__file__).resolve().parents[1]
SHARDS = 8
MEASURED = ("read_seconds", "tokenize_seconds", "device_seconds", "commit_seconds")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Eight shards in hive folders, of odd sizes, with rows that have no text."""
    root = tmp_path_factory.mktemp("corpus")
    for k in range(SHARDS):
        texts: list[str | None] = [*random_texts(23 + 6 * k, seed=k)]
        texts[k] = None
        day, name = f"dt=2026-11-{22 + k % 2}", f"part-{k}"
        write_shard(root / day / f"{name}.parquet", texts, label=["x"] * len(texts))
    return root


@pytest.fixture(scope="module")
def speed(corpus, checkpoint) -> float:
    """A threshold away from all uncertainties, at which some rows leave early."""
    return gap_threshold([p for _, p in reference_probabilities(corpus, checkpoint)], 0.2)


def reference_probabilities(corpus: Path, checkpoint: str) -> list[tuple[str, np.ndarray]]:
    """(text, (L, N)) of every row with a text, in the order of shards and rows."""
    model, tokenizer = load_model(Path(checkpoint)), load_tokenizer(Path(checkpoint))
    texts = [t for t in texts_of(corpus) if t]
    tokens = tokenize(tokenizer, texts, None, model.config.max_length)
    return [(text, all_exits(model, tokens, i)) for i, text in enumerate(texts)]


def texts_of(corpus: Path) -> list[str | None]:
    paths = sorted(corpus.rglob("*.parquet"))
    return [t for path in paths for t in pq.read_table(path, partitioning=None)["text"].to_pylist()]


@pytest.fixture(scope="module")
def undisturbed(corpus, checkpoint, speed, tmp_path_factory) -> tuple[Path, dict]:
    output = tmp_path_factory.mktemp("undisturbed")
    return output, label(settings(corpus, output, checkpoint, speed=speed, audit_rate=0.3), LOCAL)


def test_rows_and_order_equal_the_inputs_and_labels_the_slow_reference(
    undisturbed, corpus, checkpoint, speed
):
    output, summary = undisturbed
    rows = table_of(output).to_pylist()
    texts = texts_of(corpus)
    assert len(rows) == len(texts) == summary["rows"]
    ids = [i for path in sorted(corpus.rglob("*.parquet"))
           for i in pq.read_table(path, partitioning=None)["id"].to_pylist()]  # fmt: skip
    assert [row["id"] for row in rows] == ids
    names = load_model(Path(checkpoint)).config.id2label
    probabilities = iter(reference_probabilities(corpus, checkpoint))
    exits = set()
    for row, text in zip(rows, texts, strict=True):
        if text is None:
            assert row["error"] == "text is null"
            continue
        expected = answer(next(probabilities)[1], [speed] * (LAYERS - 1))
        assert row["label"] == names[expected.label]
        assert row["exit_layer"] == expected.exit + 1
        assert row["score"] == pytest.approx(expected.score, abs=1e-5)
        exits.add(row["exit_layer"])
    assert len(exits) > 1


def test_summary_ledger_and_statistics_add_up(undisturbed, corpus):
    output, summary = undisturbed
    rows = len(texts_of(corpus))
    assert summary["exit_code"] == 0
    assert summary["error_rows"] == SHARDS
    assert sum(summary["exits"]) == rows - SHARDS
    ledger = Ledger(Storage(str(output)))
    assert sum(record.rows for record in committed(ledger)) == rows
    stats = pq.read_table(output / "stats" / f"{summary['run_id']}.parquet")
    assert sum(stats["rows"].to_pylist()) == rows
    written = json.loads((output / "ledger" / "runs" / f"{summary['run_id']}.json").read_text())
    assert written == json.loads(json.dumps(summary))


def test_nothing_but_final_data_lies_under_table(undisturbed):
    output, summary = undisturbed
    files = [path for path in (output / "table").rglob("*") if path.is_file()]
    assert len(files) == summary["slices_labelled"]
    assert all(path.suffix == ".parquet" for path in files)
    assert not list((output / "staging").iterdir())


def test_a_second_run_does_nothing(undisturbed, corpus, checkpoint, speed, monkeypatch):
    output, _ = undisturbed
    before = {p: p.stat().st_mtime_ns for p in output.rglob("*") if p.is_file()}
    monkeypatch.setattr(LocalExecutor, "resources", lambda *_: pytest.fail("it was started"))
    summary = label(settings(corpus, output, checkpoint, speed=speed), LOCAL)
    assert summary["slices_labelled"] == 0
    assert summary["slices_up_to_date"] == len(list((output / "table").rglob("*.parquet")))
    assert before == {p: p.stat().st_mtime_ns for p in output.rglob("*") if p.is_file()}


def test_ray_writes_the_same_bytes(undisturbed, corpus, checkpoint, speed, tmp_path):
    """With as many threads, in float32: all but the times."""
    here, _ = undisturbed
    asked = settings(corpus, tmp_path, checkpoint, speed=speed, audit_rate=0.3)
    label(asked, RayExecutor())
    for path in (here / "table").rglob("*.parquet"):
        other = tmp_path / path.relative_to(here)
        assert other.read_bytes() == path.read_bytes(), path.name


class SparesTheModel(RayExecutor):
    """As with GPUs: readers answer what they can."""

    def resources(self, settings):
        return replace(super().resources(settings), answer_early=True)


def test_readers_on_ray_answer_as_the_engine_does(corpus, tmp_path):
    """Rows that leave before the first layer; audited ones go to full depth, too."""
    model = tmp_path / "model"
    save_checkpoint(with_bag(tiny_fastbert()), tiny_tokenizer(tmp_path), str(model))
    asked = [
        settings(corpus, tmp_path / name, str(model), speed=0.9, exits="0-", audit_rate=0.3)
        for name in ("here", "there")
    ]
    here, there = label(asked[0], LOCAL), label(asked[1], SparesTheModel())
    assert 0 < here["exits"][0] < here["rows"] - SHARDS
    assert there["exits"] == here["exits"]
    assert there["audit_agreement"] == here["audit_agreement"]
    names = [name for name in table_of(tmp_path / "here").column_names if name != "uncertainty"]
    found, expected = (table_of(tmp_path / name).select(names) for name in ("there", "here"))
    scores = [table["score"].to_numpy() for table in (found, expected)]
    np.testing.assert_allclose(*scores, atol=1e-6)
    assert found.drop_columns("score").equals(expected.drop_columns("score"))


def test_stages_are_three_operators_with_a_task_per_slice(
    corpus, checkpoint, speed, tmp_path, monkeypatch
):
    """Fused, tokenizing would run inside the replica; in one block, slices would fail together."""
    from ray.data import Dataset

    plans = []
    real = Dataset.iter_rows

    def spy(self):
        yield from real(self)
        plans.append(self.stats())

    monkeypatch.setattr(Dataset, "iter_rows", spy)
    rows = len(texts_of(corpus))  # more than the 200 blocks that Ray makes of itself
    label(settings(corpus, tmp_path, checkpoint, speed=speed, slice_rows=1), RayExecutor())
    operators = [line for line in plans[0].splitlines() if line.startswith("Operator")]
    stages = ["ReadTokenizeActor", "ClassifyActor", "CommitActor"]
    for operator, stage in zip(operators[1:], stages, strict=True):
        assert f"MapBatches({stage}): {rows} tasks executed, {rows} blocks produced" in operator


def test_only_changed_new_and_vanished_shards_are_touched(corpus, checkpoint, speed, tmp_path):
    moving = tmp_path / "in"
    for k in (1, 2, 3):
        write_shard(moving / f"{k}.parquet", random_texts(15, seed=k))
    output = tmp_path / "out"
    first = label(settings(moving, output, checkpoint, speed=speed, run_id="night-1"), LOCAL)
    assert first["slices_labelled"] == 6
    write_shard(moving / "2.parquet", random_texts(8, seed=20))  # changed, and shorter
    write_shard(moving / "4.parquet", random_texts(5, seed=4))
    (moving / "3.parquet").unlink()
    second = label(settings(moving, output, checkpoint, speed=speed, run_id="night-2"), LOCAL)
    assert (second["slices_labelled"], second["slices_up_to_date"]) == (2, 2)
    names = sorted(p.name for p in (output / "table").iterdir())
    assert names == [f"{k}.{row:012d}.parquet" for k, row in
                     ((1, 0), (1, 10), (2, 0), (3, 0), (3, 10), (4, 0))]  # fmt: skip
    third = label(settings(moving, output, checkpoint, speed=speed, prune=True), LOCAL)
    assert third["slices_labelled"] == 0
    assert not (output / "table" / "3.000000000000.parquet").exists()
    assert table_of(output).num_rows == 15 + 8 + 5


@pytest.mark.parametrize(
    ("nodes", "gpus", "replicas", "expected"),
    [
        ([4], 0, "1", (0.0, 3, 1, 0.5)),
        ([2], 0, "1", (0.0, 1, 1, 0.5)),
        ([64], 0, "2:4", (0.0, 15, 4, 0.5)),
        ([4, 64, 64], 0, "2", (0.0, 64, 2, 0.5)),  # not the cores of the driver's machine
        ([64, 8, 8], 0, "3", (0.0, 21, 3, 0.5)),  # no replica spans two nodes
        ([16], 1, "1", (1.0, 1, 14, 1.0)),
        ([64], 4, "1:4", (1.0, 1, 59, 1.0)),
    ],
)
def test_sharing_out(nodes, gpus, replicas, expected):
    wanted = settings("in", "out", "model", speed=0.5, replicas=replicas, cpus_per_replica=None)
    found = share_out(wanted, {"CPU": sum(nodes), "GPU": gpus}, nodes)
    assert (found.replica_gpus, found.replica_cpus, found.readers, found.reader_cpus) == expected
    assert found.device == ("cuda" if gpus else "cpu")


def test_a_replica_has_no_more_threads_than_its_node_has_cores():
    wanted = settings("in", "out", "model", speed=0.5, cpus_per_replica=None)
    assert share_out(wanted, {"CPU": 4}, [2]).replica_cpus == 2


def test_too_small_a_cluster_is_refused():
    wanted = settings("in", "out", "model", speed=0.5, replicas="3")
    with pytest.raises(
        InputError, match="has 3 CPUs, 3 replicas of 1 CPUs with a reader need 3.75"
    ):
        share_out(wanted, {"CPU": 3.0}, [2])


@pytest.mark.parametrize(("slices", "said"), [(2, 0), (3, 1)])
def test_slices_that_keep_rays_driver_busy_are_told(slices, said, monkeypatch, caplog):
    monkeypatch.setattr("pipelines.running.ray_executor._MANY", 2)
    shard = Shard("file:///in/a.parquet", "a", "etag:1")
    tell_many([Slice(shard, 30, 10 * k, 10 - k) for k in range(slices)])
    assert len(caplog.messages) == said
    if said:
        assert caplog.messages[0].startswith("3 slices of at most 10 rows: on Ray the driver takes")
        assert "--slice-rows" in caplog.messages[0]


def test_a_bad_shard_does_not_stop_the_others(checkpoint, speed, tmp_path):
    write_shard(tmp_path / "in" / "a.parquet", random_texts(9))
    good = write_shard(tmp_path / "in" / "b.parquet", random_texts(9, seed=1)).read_bytes()
    (tmp_path / "in" / "truncated.parquet").write_bytes(good[:-20])
    (tmp_path / "in" / "not.parquet").write_text("hello")
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "in" / "other.parquet")
    # Damage inside a page: the footer is fine, so it shows only when the rows are read.
    middle = good.index(b"PAR1") + 4
    broken = good[:middle] + bytes(120) + good[middle + 120 :]
    (tmp_path / "in" / "broken.parquet").write_bytes(broken)
    summary = label(settings(tmp_path / "in", tmp_path / "out", checkpoint, speed=speed), LOCAL)
    assert summary["exit_code"] == 3
    bad = {url.rpartition("/")[2] for url in summary["bad_shards"]}
    assert bad == {"truncated.parquet", "not.parquet", "other.parquet", "broken.parquet"}
    assert summary["rows"] == 18


def test_too_many_bad_rows(checkpoint, speed, tmp_path):
    write_shard(tmp_path / "in" / "a.parquet", [None, *random_texts(9)])
    common = dict(speed=speed, output=str(tmp_path / "out"))
    strict = settings(tmp_path / "in", checkpoint=checkpoint, max_bad_rows=0.05, **common)
    assert label(strict, LOCAL)["exit_code"] == 3
    assert table_of(tmp_path / "out").num_rows == 10  # nothing is lost


def test_on_an_object_store(undisturbed, corpus, checkpoint, speed, tmp_path):
    """Input, output and checkpoint on S3; then the report from there."""
    with ObjectStore(tmp_path / "store") as store:
        environment = os.environ | store.environment
        environment.pop("RAY_ADDRESS", None)
        store.make_bucket("lake")
        copy = (
            "import fsspec, sys; fs = fsspec.filesystem('s3');"
            f"fs.put({f'{corpus}/'!r}, 'lake/in/', recursive=True);"
            f"fs.put({f'{checkpoint}/'!r}, 'lake/model/', recursive=True)"
        )
        subprocess.run([sys.executable, "-c", copy], env=environment, check=True)
        command = label_command("s3://lake/in", "s3://lake/out", "s3://lake/model", speed)
        slices = len(list((undisturbed[0] / "table").rglob("*.parquet")))
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)["slices_labelled"] == slices
        report = [sys.executable, str(ROOT / "jobs" / "report.py"), "--output", "s3://lake/out"]
        fetch = (
            "import fsspec; fsspec.filesystem('s3').get('lake/out/', "
            f"{str(tmp_path / 'out')!r}, recursive=True)"
        )
        subprocess.run([sys.executable, "-c", fetch], env=environment, check=True)
        count = subprocess.run(
            [*report, "--sql", "select count(*) as n from rows"],
            env=environment,
            capture_output=True,
            text=True,
        )
    assert table_of(tmp_path / "out").equals(table_of(undisturbed[0]))
    assert json.loads(count.stdout)["rows"] == [{"n": table_of(undisturbed[0]).num_rows}]
