"""The calibration job, from outside: points in the checkpoint, and refusals that change nothing."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.jobs import invoke, refused
from support.models import LAYERS, tiny_fastbert, tiny_tokenizer
from support.shards import random_texts, write_shard

import fastbert
from fastbert.calibration.evaluation import exit_outputs
from fastbert.calibration.ranges import measure_ranges
from fastbert.checkpoint import fingerprint, store_operating_point
from fastbert.configuration import load_config
from fastbert.errors import InputError
from fastbert.exits.operating_point import OperatingPoint
from fastbert.inference.engine import DTYPES, Engine
from fastbert.inference.tokenizer import Tokenizer
from fastbert.tokenizer import load_tokenizer
from fastbert.weights import load_model, save_checkpoint
from pipelines.input.columns import InputColumns
from pipelines.input.examples import read_examples

ROWS = 700


@pytest.fixture
def model(tmp_path) -> Path:
    """A checkpoint whose layers agree on some rows."""
    network = tiny_fastbert(seed=5)
    network.config.id2label = dict(enumerate(["ape", "bee", "cow", "dog", "eel"]))
    network.config.label2id = {name: i for i, name in network.config.id2label.items()}
    (tmp_path / "vocabulary").mkdir()
    save_checkpoint(network, tiny_tokenizer(tmp_path / "vocabulary"), str(tmp_path / "model"))
    return tmp_path / "model"


@pytest.fixture
def corpus(tmp_path) -> Path:
    texts: list[str | None] = [*random_texts(ROWS, seed=1)]
    texts[5] = None
    labels = np.random.default_rng(2).choice(["ape", "bee", "dog"], ROWS).tolist()
    for part, rows in enumerate((slice(0, 300), slice(300, ROWS))):
        path = tmp_path / "in" / f"{part}.parquet"
        write_shard(path, texts[rows], label=labels[rows])
    return tmp_path / "in"


def calibrate(model: Path, corpus: Path, *options: object):
    return invoke("calibrate", "--model", model, "--corpus", corpus, *options)


def point_of(result, model: Path) -> OperatingPoint:
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    point = OperatingPoint.of_checkpoint(load_config(model), None)
    assert summary["operating_point"]["thresholds"] == point.thresholds
    return point


def test_a_promise_is_stored_and_true_of_the_rows(model, corpus):
    before = fingerprint(model)
    result = calibrate(model, corpus, "--max-disagreement", 0.9, "--criterion", "entropy")
    point = point_of(result, model)
    assert point.name == "max-disagreement-0.9"
    assert point.promise is not None
    assert (point.promise.share, point.promise.confidence, point.promise.rows) == (0.9, 0.95, None)
    assert point.evidence is not None
    assert point.evidence.rows == sum(point.evidence.exits) == ROWS - 1
    assert point.evidence.bound <= 0.9
    assert point.evidence.flops_speedup > 1
    assert fingerprint(model) == before
    # What the evidence says, by the engine itself.
    network, tokenizer = load_model(model), load_tokenizer(model)
    examples, _ = read_examples([str(corpus)], InputColumns())
    tokens = Tokenizer(tokenizer)(examples.texts, None, network.config.max_length)
    engine = Engine(network, dtype=DTYPES[point.evidence.precision])
    found = engine.classify(tokens, point.rule(), np.ones(len(tokens), bool))
    assert np.bincount(found.exit, minlength=LAYERS).tolist() == point.evidence.exits
    assert point.exit_depths == point.evidence.exit_depths == [1, 2, 3]
    assert (found.answer["label"] != found.deep["label"]).sum() <= point.evidence.broken


def test_by_default_a_part_of_the_rows_learns_temperatures(model, corpus):
    point = point_of(calibrate(model, corpus, "--max-disagreement", 0.9), model)
    assert point.criterion == "tempered-entropy"
    assert point.temperatures is not None
    assert len(point.temperatures) == LAYERS - 1
    assert len({*point.temperatures}) > 1
    assert point.evidence is not None
    assert point.evidence.rows == sum(point.evidence.exits) == pytest.approx(0.9 * ROWS, rel=0.05)
    network, tokenizer = load_model(model), load_tokenizer(model)
    examples, _ = read_examples([str(corpus)], InputColumns())
    tokens = Tokenizer(tokenizer)(examples.texts, None, network.config.max_length)
    engine = Engine(network)
    found, known = engine.classify(tokens, point.rule()), exit_outputs(engine, tokens)
    assert found.exit.tolist() == known.exits(point.rule()).tolist()


def test_every_criterion_and_some_exits(model, corpus):
    for options in (
        ("--criterion", "margin"),
        ("--criterion", "max-probability", "--exits", "2", "--shape", "uniform"),
        ("--criterion", "auto", "--shape", "auto", "--name", "best", "--promise-rows", 500),
    ):
        point = point_of(calibrate(model, corpus, "--max-disagreement", 0.9, *options), model)
        assert "auto" in options or point.criterion == options[1]
    assert point.name == "best"
    kept = {"max-disagreement-0.9", "max-disagreement-0.9-2", "best"}
    assert set(load_config(model).operating_points) == kept


def test_accuracy_and_speedup(model, corpus, caplog):
    caplog.set_level("INFO")
    point = point_of(calibrate(model, corpus, "--max-accuracy-loss", 0.4), model)
    assert point.promise is not None
    assert point.promise.harm == "accuracy-loss"
    assert "; full depth itself is wrong in" in caplog.text
    assert "next: fastbert label --model" in caplog.text
    point = point_of(calibrate(model, corpus, "--speedup", 1.3), model)
    assert point.promise is None
    assert point.evidence is not None
    assert point.evidence.flops_speedup >= 1.3


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ([], ["pass one of --max-disagreement"]),
        (["--speedup", 2, "--max-disagreement", 0.1], ["pass one of --max-disagreement"]),
        (["--max-disagreement", 1.5], ["--max-disagreement is 1.5", "less than 1: 0.01 is 1 %"]),
        (["--max-disagreement", 0.01, "--confidence", 1], ["--confidence is 1"]),
        (["--speedup", 2, "--criterion", "auto"], ["--speedup needs a --criterion"]),
        (["--speedup", 2, "--criterion", "patience"], ["'patience': removed", "entropy"]),
        (["--speedup", 2, "--shape", "per-layer"], ["'per-layer': removed", "tempered"]),
        (["--speedup", 2, "--exits", "7-"], ["--exits is '7-'", "of 1, 2, 3"]),
        (["--speedup", 30], ["--speedup is 30", f"at most {LAYERS}"]),
        (["--max-disagreement", 0.004], ["699 rows", "at least 832 (10% of them for", "--rows"]),
        (["--max-disagreement", 0.01], ["nothing faster than full depth", "allow more"]),
        (["--max-accuracy-loss", 0.1, "--label-column", "x"], ["no column 'x'", "text, id, label"]),
    ],
)
def test_refusals_leave_the_checkpoint_alone(model, corpus, options, parts):
    before = (model / "config.json").read_bytes()
    refused(calibrate(model, corpus, *options), *parts)
    assert (model / "config.json").read_bytes() == before
    assert not list(model.glob("*.partial"))


def test_a_sample_is_drawn_from_all_shards_and_row_groups(corpus):
    columns = InputColumns(labels=("label",))
    everything, names = read_examples([str(corpus)], columns)
    some, _ = read_examples([str(corpus)], columns, names, sample=200, seed=3)
    again, _ = read_examples([str(corpus)], columns, names, sample=200, seed=3)
    other, _ = read_examples([str(corpus)], columns, names, sample=200, seed=4)
    assert some == again != other
    rows = {(text, label) for text, label in zip(everything.texts, everything.labels, strict=True)}
    assert all(pair in rows for pair in zip(some.texts, some.labels, strict=True))
    assert 199 <= len(some) <= 200
    everything_again, _ = read_examples([str(corpus)], columns, names, sample=10**6)
    assert everything_again == everything


EVIDENCE = dict(
    rows=7, broken=0, bound=0.1, exits=[3, 4, 0], flops_speedup=2.0, corpus="", precision="fp32",
    date="2026-11-21T12:00:00+00:00",
)  # fmt: skip


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"thresholds": [0.5]}, "1 thresholds, expected 2"),
        ({"thresholds": [0.5, 0.5], "criterion": "mood"}, "criterion is 'mood'"),
        ({"thresholds": [0.5, 0.5], "evidence": EVIDENCE | {"exits": [3, 4]}}, "for 2 exits"),
        ({"thresholds": [0.5, 0.5], "hope": 1}, "'hope', unknown to this release"),
        ({"thresholds": ["a", "b"]}, "got `str`"),
        ({"thresholds": [0.5, 0.5], "exit_depths": [1, 2, 4]}, r"depths \[1, 2, 4\]"),
        ({"thresholds": [0.5, 0.5], "criterion": "patience"}, "fastbert calibrate"),
    ],
)
def test_points_that_cannot_be_used(model, point, message):
    store_operating_point(str(model), "bad", point)
    with pytest.raises(InputError, match=message):
        OperatingPoint.of_checkpoint(load_config(model), "bad")


@pytest.mark.integration
def test_eight_bits_keep_to_the_ranges_of_their_point(model, corpus, tmp_path):
    """The job, the library and the engine by itself give the same."""
    asked = ["--precision", "int8", "--max-disagreement", 0.9, "--against", "fp32"]
    point = point_of(calibrate(model, corpus, *asked), model)
    assert point.ranges is not None
    assert point.promise.against == "fp32"
    assert point.evidence.rows == pytest.approx(0.9 * 0.9 * ROWS, rel=0.05)
    output = tmp_path / "out"
    arguments = ["--input", corpus, "--output", output, "--model", model, "--audit-rate", 1]
    result = invoke("label", *arguments)
    assert result.exit_code == 0, result.output
    given = pq.read_table(output / "table")["label"].drop_null().to_pylist()
    texts = [each for each in pq.read_table(corpus)["text"].to_pylist() if each]
    network = load_model(model)
    tokens = Tokenizer(load_tokenizer(model))(texts, None, network.config.max_length)

    def labels(engine: Engine) -> list[str]:
        found = engine.classify(tokens, point.rule()).answer["label"]
        return [network.config.label_names[each] for each in found]

    own = labels(Engine(network, dtype=DTYPES["int8"], ranges=point.ranges))
    assert own != labels(Engine(network, dtype=DTYPES["int8"]))  # control: a scale for each token
    assert given == own
    assert [each.label for each in fastbert.load(model).label(texts)] == own


def test_ranges_that_cannot_be(model, corpus):
    asked = ["--precision", "int8", "--max-disagreement", 0.9]
    point = point_of(calibrate(model, corpus, *asked), model)
    name = next(iter(point.ranges))
    for wrong in ({"least": float("nan")}, {"least": 2.0, "most": 1.0}, {"apart": [-1]}):
        ranges = point.ranges | {name: replace(point.ranges[name], **wrong)}
        store_operating_point(str(model), "bad", replace(point, ranges=ranges).settings())
        with pytest.raises(InputError, match=f"cannot be used: .*its range for {name} is"):
            OperatingPoint.of_checkpoint(load_config(model), None)
    plain = point_of(calibrate(model, corpus, "--max-disagreement", 0.9), model)
    assert "ranges" not in plain.settings()
    of_two = OperatingPoint.of_questions("both", {"a": plain, "b": plain})
    again = replace(of_two, ranges=point.ranges).with_bag()
    assert again.ranges == point.ranges


def test_full_depth_that_changes_too_much_is_refused(model, corpus, monkeypatch):
    """Eight bits of ranges that are far too narrow."""
    narrow = lambda model, tokens: {  # noqa: E731
        name: replace(span, least=span.least / 50, most=span.most / 50)
        for name, span in measure_ranges(model, tokens).items()
    }
    monkeypatch.setattr("pipelines.checkpoints.calibrate.measure_ranges", narrow)
    asked = ["--precision", "int8", "--max-disagreement", 0.05]
    refused(calibrate(model, corpus, *asked, "--against", "fp32"), "full depth in int8 alone")
    asked = ["--speedup", 2, "--against", "fp32"]
    refused(calibrate(model, corpus, *asked), "--against goes with a promise")


@pytest.mark.integration
def test_label_takes_the_point_and_audits_its_promise(model, corpus, tmp_path):
    criterion = ["--criterion", "margin", "--max-disagreement", 0.9]
    point = point_of(calibrate(model, corpus, *criterion), model)
    output = tmp_path / "out"
    arguments = ["--input", corpus, "--output", output, "--model", model, "--audit-rate", 1]
    result = invoke("label", *arguments)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["operating_point"] == point.name
    assert summary["exits"] == point.evidence.exits
    assert summary["exit_drift"] == 0
    low, high = summary["audit_interval"]
    assert low < summary["audit_agreement"] < high
    assert summary["alarms"] == []
    lineage = pq.read_schema(output / "table" / "0.000000000000.parquet").metadata
    assert lineage[b"fastbert.criterion"] == b"margin"
    # Promise what it does not do: the audit says so.
    promise = replace(point.promise, share=0.001)
    store_operating_point(str(model), point.name, replace(point, promise=promise).settings())
    result = invoke("label", *arguments, "--output", tmp_path / "other")
    assert "audited rows do not have full depth's label" in json.loads(result.stdout)["alarms"][0]


def test_nothing_can_be_calibrated_with_one_exit(tmp_path, corpus):
    exits = [{"depth": LAYERS, "head": "adopted"}]
    save_checkpoint(tiny_fastbert(exits=exits), tiny_tokenizer(tmp_path), str(tmp_path / "model"))
    refused(
        calibrate(tmp_path / "model", corpus, "--max-disagreement", 0.9), "no exit except the last"
    )
