"""An output whose checkpoint or operating point changes: refused, for new shards only, or all."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from support.jobs import invoke, refused
from support.labelling import settings, table_of
from support.models import tiny_classifier, tiny_fastbert, tiny_tokenizer, with_bag
from support.records import committed
from support.shards import random_texts, write_shard
from support.stages import InProcess

from fastbert.checkpoint import store_operating_point
from fastbert.errors import InputError
from fastbert.weights import save_checkpoint
from pipelines.labelling import job as jobs
from pipelines.labelling.job import label
from pipelines.output.ledger import Ledger
from pipelines.output.lock import RunLock
from pipelines.output.storage import Storage


@pytest.fixture
def model(tmp_path) -> str:
    """A checkpoint with two points, of which the first one is the default."""
    (tmp_path / "vocabulary").mkdir()
    tokenizer = tiny_tokenizer(tmp_path / "vocabulary")
    save_checkpoint(tiny_fastbert(seed=5), tokenizer, str(tmp_path / "model"))
    store_operating_point(str(tmp_path / "model"), "one", POINT)
    return str(tmp_path / "model")


POINT = {"thresholds": [0.9, 0.8], "criterion": "entropy", "exit_depths": [1, 2, 3]}
OTHER = POINT | {"thresholds": [0.1, 0.2]}


@pytest.fixture
def night(tmp_path, model, monkeypatch):
    """Labels four shards of two slices each."""
    monkeypatch.setattr(jobs, "RunLock", lambda s, r: RunLock(s, r, settle=0))
    for number, name in enumerate(["unchanged", "changed", "vanished", "spoiled"]):
        write_shard(tmp_path / "in" / f"{name}.parquet", random_texts(15, seed=number))

    def run(**changes) -> dict:
        asked = {"speed": None, "carry": ("id",)} | changes
        return label(settings(tmp_path / "in", tmp_path / "out", model, **asked), InProcess())

    return run


def happen(corpus) -> None:
    """Between two nights."""
    write_shard(corpus / "new.parquet", random_texts(15, seed=7))
    write_shard(corpus / "changed.parquet", random_texts(12, seed=8))
    (corpus / "vanished.parquet").unlink()


def recipes(output) -> dict[str, set[tuple[float, ...]]]:
    """By shard, the thresholds that its files were labelled at."""
    found: dict[str, set[tuple[float, ...]]] = {}
    for record in committed(Ledger(Storage(str(output)))):
        found.setdefault(record.shard, set()).add(tuple(record.recipe["thresholds"]))
    return found


A, B = {(0.9, 0.8)}, {(0.1, 0.2)}
TABLE = {
    # on-change: what new, changed, unchanged and vanished shards are labelled at
    "refuse": (None, A, A, A),
    "new": (B, B, A, A),
    "relabel": (B, B, B, A),
}


@pytest.mark.parametrize("on_change", TABLE)
@pytest.mark.parametrize("change", ["point", "checkpoint"])
def test_what_each_shard_is_labelled_by(tmp_path, model, night, on_change, change):
    night()
    before = table_of(tmp_path / "out")
    happen(tmp_path / "in")
    more = {"operating_point": "two"}
    store_operating_point(model, "two", OTHER, default=False)
    if change == "checkpoint":
        tokenizer = tiny_tokenizer(tmp_path / "vocabulary")
        save_checkpoint(tiny_fastbert(seed=6), tokenizer, model)
        store_operating_point(model, "two", OTHER)
        more = {}
    expected = dict(zip(["new", "changed", "unchanged", "vanished"], TABLE[on_change], strict=True))
    if on_change == "refuse":
        what = "thresholds" if change == "point" else "checkpoint"
        with pytest.raises(InputError, match=rf"labelled with {what}.*--on-change new.*--relabel"):
            night(**more)
        assert table_of(tmp_path / "out").equals(before)
        assert "new" not in recipes(tmp_path / "out")
        return
    found = night(on_change=on_change, **more)
    assert {name: recipes(tmp_path / "out")[name] for name in expected} == expected
    assert found["slices_up_to_date"] == (4 if on_change == "new" else 0)
    rows = Counter(table_of(tmp_path / "out")["id"].to_pylist())
    assert rows.total() == 15 * 4 + 12
    # From then on this is the last run's labelling, and nothing is refused or done again.
    assert night(**more)["slices_labelled"] == 0
    assert night()["slices_labelled"] == 0


@pytest.mark.parametrize("change", [{"carry": ()}, {"text_column": "id"}, {"truncated": True}])
def test_columns_and_length_are_never_mixed(tmp_path, model, night, change):
    # An output of an earlier release: it has no column `truncated`.
    night(run_id="first")
    ledger = Ledger(Storage(str(tmp_path / "out")))
    old = [replace(r, recipe=r.recipe | {"truncated": False}) for r in committed(ledger)]
    ledger.withdraw(ledger.committed().commits)
    for record in old:
        ledger.put(record)
    with pytest.raises(InputError, match=r"was labelled with (?!.*--on-change new)"):
        night(on_change="new", operating_point="one", **change)


def test_a_spoiled_shard_keeps_its_labels_until_it_can_be_read(tmp_path, model, night):
    """Which --relabel then does, and a plain run does not."""
    night()
    store_operating_point(model, "two", OTHER)
    whole = (tmp_path / "in" / "spoiled.parquet").read_bytes()
    (tmp_path / "in" / "spoiled.parquet").write_bytes(whole[:100])
    assert night(relabel=True)["exit_code"] == 3
    assert recipes(tmp_path / "out")["spoiled"] == A
    (tmp_path / "in" / "spoiled.parquet").write_bytes(whole)
    assert night()["slices_labelled"] == 2  # its version is another one by now
    assert recipes(tmp_path / "out")["spoiled"] == B


def test_a_killed_relabelling_is_finished_by_the_next_run(tmp_path, model, night):
    night()
    store_operating_point(model, "two", OTHER)
    ledger = Ledger(Storage(str(tmp_path / "out")))

    class Killed(InProcess):
        def run(self, *arguments):
            for outcome in super().run(*arguments):
                yield outcome
                raise KeyboardInterrupt

    asked = settings(tmp_path / "in", tmp_path / "out", model, speed=None, carry=("id",))
    with pytest.raises(KeyboardInterrupt):
        label(replace(asked, relabel=True), Killed())
    assert len(committed(ledger)) == 1
    assert night()["slices_labelled"] == 7
    assert set.union(*recipes(tmp_path / "out").values()) == B


def test_a_new_default_does_not_touch_what_runs(tmp_path, model, night, caplog):
    night()
    store_operating_point(model, "two", OTHER)
    happen(tmp_path / "in")
    with caplog.at_level("INFO"):
        found = night()
    assert found["operating_point"] == "one"
    assert set.union(*recipes(tmp_path / "out").values()) == A
    assert "continuing with 'one'" in caplog.text
    assert "default is now 'two'" in caplog.text
    assert "--on-change new" in caplog.text
    # A fresh output takes it.
    asked = settings(tmp_path / "in", tmp_path / "other", model, speed=None)
    assert label(asked, InProcess())["operating_point"] == "two"
    # Where the point is gone, the user decides.
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    del config["operating_points"]["one"]
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"thresholds \[0.9, 0.8\].*--on-change new"):
        night()
    assert night(on_change="new")["slices_labelled"] == 0


def test_an_output_of_a_speed_names_it(tmp_path, model, night):
    night(speed=0.3)
    with pytest.raises(
        InputError, match=r"pass --speed 0.3 to continue as before, --on-change new"
    ):
        night()
    assert night(speed=0.3)["slices_labelled"] == 0


def test_so_does_one_of_a_checkpoint_with_an_exit_before_the_first_layer(tmp_path):
    model = str(tmp_path / "model")
    save_checkpoint(with_bag(tiny_fastbert()), tiny_tokenizer(tmp_path), model)
    point = {"thresholds": [0.2] * 3, "criterion": "tempered-entropy", "temperatures": [2.0] * 3}
    store_operating_point(model, "mine", point)
    write_shard(tmp_path / "in" / "a.parquet", random_texts(9))
    for exits, advice in (
        (None, "--speed 0.3 to continue"),
        ("0-", "--speed 0.3 --exits 0- to continue"),
    ):
        asked = settings(tmp_path / "in", tmp_path / f"out{exits}", model, speed=0.3, exits=exits)
        label(asked, InProcess())
        other = replace(asked, speed=None, exits=None, operating_point="mine")
        with pytest.raises(InputError, match=advice):
            label(other, InProcess())


def test_a_checkpoint_without_a_default_goes_on_too(tmp_path, model, night):
    night()
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["default_operating_point"] = None
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    assert night()["operating_point"] == "one"


def test_a_lost_ledger_does_not_change_the_point(tmp_path, model, night):
    night()
    for path in (tmp_path / "out" / "ledger").rglob("*"):
        if path.is_file():
            path.unlink()
    store_operating_point(model, "two", OTHER)
    found = night()
    assert (found["operating_point"], found["slices_adopted"]) == ("one", 8)


def test_train_label_calibrate_label(tmp_path, caplog):
    """The second night goes on with the first one's point."""
    caplog.set_level("INFO")
    texts = random_texts(900, seed=1, longest=6)
    labels = ["red" if "red" in text else "other" for text in texts]
    write_shard(tmp_path / "train.parquet", texts[:300], label=labels[:300])
    write_shard(tmp_path / "dev.parquet", texts[300:], label=labels[300:])
    write_shard(tmp_path / "in" / "one.parquet", random_texts(30, seed=2))
    tiny_classifier().base_model.save_pretrained(tmp_path / "backbone")
    tiny_tokenizer(tmp_path).save_pretrained(tmp_path / "backbone")
    out, model, dev = tmp_path / "out", tmp_path / "model", tmp_path / "dev.parquet"
    common = ["--train", tmp_path / "train.parquet", "--dev", dev, "--max-length", 16]
    common += ["--backbone", tmp_path / "backbone", "--learning-rate", 0.01, "--epochs", 5]
    trained = invoke("train", *common, "--output", model)
    assert trained.exit_code in (0, 3), trained.stderr  # however good it is
    first = json.loads(trained.stdout)["operating_point"]["name"]
    labelling = ["--input", tmp_path / "in", "--output", out, "--model", model]
    assert json.loads(invoke("label", *labelling).stdout)["operating_point"] == first
    done = invoke("calibrate", "--model", model, "--corpus", dev, "--max-disagreement", 0.5,
                  "--criterion", "margin")  # fmt: skip
    found = json.loads(done.stdout)
    assert found["default_before"] == first
    assert f"in place of '{first}'" in caplog.text
    write_shard(tmp_path / "in" / "two.parquet", random_texts(30, seed=3))
    second = invoke("label", *labelling)
    assert second.exit_code == 0
    assert json.loads(second.stdout)["operating_point"] == first
    assert f"continuing with '{first}'" in caplog.text
    refused(invoke("label", *labelling, "--operating-point", found["operating_point"]["name"]),
            "--on-change new", "--relabel")  # fmt: skip
