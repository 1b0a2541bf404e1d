"""Several questions in one pass: each is answered as if it were alone, and a row leaves where it
has its last answer."""

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.jobs import invoke, refused
from support.labelling import table_of
from support.models import (
    BRANCH,
    LAYERS,
    POSITIONS,
    make_noisy,
    random_tokens,
    tiny_classifier,
    tiny_tokenizer,
    with_bag,
)
from support.shards import WORDS, random_texts
from support.stages import InProcess
from transformers import pipeline

import fastbert
from fastbert.configuration import FastBertConfig
from fastbert.exits.question import Question, questions_of
from fastbert.exits.rules import Threshold
from fastbert.inference.cost import CostModel
from fastbert.inference.decisions import row_exits
from fastbert.inference.engine import Engine
from fastbert.model import FastBertForSequenceClassification
from fastbert.weights import load_model
from pipelines.input.columns import InputColumns
from pipelines.output.schema import output_schema

TOPICS, TAGS = ["a", "b", "c", "d"], ["x", "y", "z"]
ASKED = [
    Question("single-label", "topic", 4),
    Question("several-labels", "tags", 3, [0.5, 0.4, 0.7]),
    Question("score", "grade", 1, centre=2.5, scale=1.7),
]
RULES = [("tempered-entropy", ()), ("entropy", ()), ("cutoff", (2.0, 3.0))]
PROPERTY = settings(max_examples=10, deadline=None, derandomize=True)


@cache
def model(bag: bool = False) -> FastBertForSequenceClassification:
    backbone = tiny_classifier().base_model
    config = FastBertConfig.of(
        backbone.config, [*TOPICS, *TAGS, "grade"], ASKED, branch_size=BRANCH,
        max_length=POSITIONS - 9,
    )  # fmt: skip
    torch.manual_seed(1)
    made = make_noisy(FastBertForSequenceClassification(config), 4)
    return (with_bag(made) if bag else made).eval().double()


def rules_at(quantiles: list[float], engine: Engine, tokens) -> list[Threshold]:
    """One for each question, below which about such a share of its uncertainties lies."""
    logits = torch.from_numpy(engine.exit_logits(tokens))
    found = []
    for asked, quantile, (criterion, within) in zip(
        engine.questions, quantiles, RULES, strict=True
    ):
        own = asked.task.by(criterion, within).uncertainty(logits[:-1, :, asked.numbers])
        edges = np.unique(np.concatenate([[0.0], own.numpy().ravel(), [1.0]]))
        middles = ((edges[1:] + edges[:-1]) / 2)[np.diff(edges) > 1e-6]
        threshold = middles[np.abs(middles - np.quantile(edges, quantile)).argmin()]
        exits = len(engine.exits)
        soft = None if criterion == "entropy" else np.geomspace(0.6, 1.5, exits - 1)
        found.append(Threshold.of(np.full(exits - 1, threshold), criterion, soft, within))
    return found


def alone(place: int, bag: bool) -> Engine:
    """An engine whose heads give the numbers of one question only."""
    whole, asked = model(bag), model(bag).questions.each[place]
    names = list(asked.task.names)
    question = Question(asked.task.question.kind, "", None, asked.task.question.cutoffs,
                        asked.task.question.centre, asked.task.question.scale)  # fmt: skip
    config = FastBertConfig.from_dict(whole.config.to_dict())
    config.questions = [{k: v for k, v in vars_of(question).items() if v is not None}]
    config.id2label = dict(enumerate(names))
    mine = FastBertForSequenceClassification(config).double()
    weights = {}
    for name, value in whole.state_dict().items():
        weights[name] = value[asked.numbers] if ".classifier." in name else value
    mine.load_state_dict(weights)
    return Engine(mine.eval(), dtype=torch.float64, batch_tokens=50, pool_tokens=130)


def vars_of(question: Question) -> dict[str, Any]:
    return {name: getattr(question, name) for name in question.__struct_fields__}


def check_each_as_if_alone(engine: Engine, tokens, quantiles: list[float], bag: bool) -> None:
    rules = rules_at(quantiles, engine, tokens)
    deep = np.arange(len(tokens)) % 2 == 0
    found = engine.answer(tokens, rules, deep)
    for place, each in enumerate(found):
        expected = alone(place, bag).classify(tokens, rules[place], deep)
        assert each.exit.tolist() == expected.exit.tolist()
        np.testing.assert_allclose(each.uncertainty, expected.uncertainty, atol=1e-6)
        assert each.audited.tolist() == deep.tolist()
        task = (
            engine.questions.each[place].task.by("tolerance", (1e-5,))
            if place == 2
            else (engine.questions.each[place].task)
        )
        assert not task.differs(each.answer, expected.answer).any()
        assert not task.differs(each.deep, expected.deep)[deep].any()
    exits = np.max([each.exit for each in found], axis=0)
    assert row_exits(found).tolist() == exits.tolist()


@PROPERTY
@given(
    lengths=st.lists(st.integers(2, 23), min_size=1, max_size=12),
    quantiles=st.lists(st.floats(0, 1), min_size=3, max_size=3),
    bag=st.booleans(),
)
def test_each_question_is_answered_as_if_it_were_the_only_one(lengths, quantiles, bag):
    tokens = random_tokens(lengths, 3, special=True)
    engine = Engine(model(bag), dtype=torch.float64, batch_tokens=50, pool_tokens=130)
    check_each_as_if_alone(engine, tokens, quantiles, bag)


class AllLeaveWithTheFirst(Engine):
    """A row leaves as soon as it has one answer."""

    def _run(self, tokens, decide, *options):
        def soon(exit, rows, logits):
            later = decide(exit, rows, logits)
            return lambda: later() & (decide.each[0].found.exit[rows] < 0)

        super()._run(tokens, soon if hasattr(decide, "each") else decide, *options)


def test_control():
    tokens = random_tokens(np.arange(2, 20), 3)
    broken = AllLeaveWithTheFirst(model(), dtype=torch.float64)
    with pytest.raises(AssertionError):
        check_each_as_if_alone(broken, tokens, [0.9, 0.1, 0.1], False)


def test_rows_leave_at_different_exits_for_different_questions():
    """Otherwise the property above would test less than it says."""
    tokens = random_tokens(np.full(80, 9), 5)
    engine = Engine(model(True), dtype=torch.float64)
    found = engine.answer(tokens, rules_at([0.5, 0.4, 0.6], engine, tokens))
    exits = np.stack([each.exit for each in found])
    assert (exits.min(0) < exits.max(0)).mean() > 0.5
    assert {*exits.max(0)} == {*range(LAYERS + 1)}


def test_an_exit_that_only_another_question_uses_says_nothing():
    """Nor is it part of what earlier exits said."""
    tokens, engine = random_tokens(np.full(40, 9), 5), Engine(model(), dtype=torch.float64)
    rules = rules_at([0.5, 0.5, 0.5], engine, tokens)
    rules[0] = Threshold.of([0.0, 0.6], "tempered-entropy", [0.5, 1.5])
    (topic, *_) = engine.answer(tokens, rules)
    expected = alone(0, False).classify(tokens, rules[0])
    assert 0 not in topic.exit
    assert topic.exit.tolist() == expected.exit.tolist()
    np.testing.assert_allclose(topic.uncertainty, expected.uncertainty, atol=1e-6)


# Through the commands.


def tags_of(text: str) -> list[str]:
    return [word for word in WORDS[1:3] if word in text.split()]


def rows(count: int, seed: int) -> pa.Table:
    texts = random_texts(count, seed=seed, longest=6)
    return pa.table(
        {
            "text": texts,
            "topic": ["the" if "the" in text.split() else "other" for text in texts],
            "tags": pa.array([tags_of(text) for text in texts], pa.list_(pa.string())),
            "grade": [float(text.split().count("a")) for text in texts],
        }
    )


LEARN = ["--epochs", 8, "--learning-rate", 3e-3, "--distil-epochs", 4, "--batch-size", 16,
         "--max-length", 16]  # fmt: skip
COLUMNS = ["--label-column", "topic", "--label-column", "tags", "--label-column", "grade"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("questions")
    tiny_classifier().base_model.save_pretrained(folder / "backbone")
    tiny_tokenizer(folder).save_pretrained(folder / "backbone")
    pq.write_table(rows(900, 1), folder / "train.parquet")
    pq.write_table(rows(1500, 2).select(["text"]), folder / "corpus.parquet")
    result = invoke(
        "train", "--train", folder / "train.parquet", *COLUMNS, "--backbone", folder / "backbone",
        "--output", folder / "model", *LEARN,
    )  # fmt: skip
    assert result.exit_code in (0, 3), result.output
    return folder, json.loads(result.stdout.splitlines()[-1])


def test_training_judges_and_calibrates_each(trained):
    folder, summary = trained
    assert [*summary["questions"]] == ["topic", "tags", "grade"]
    assert summary["questions"]["topic"]["dev_accuracy"] > 0.6
    assert "dev_micro_f1" in summary["questions"]["tags"]
    assert "dev_r2" in summary["questions"]["grade"]
    config = load_model(folder / "model").config
    assert config.label_names == ["other", "the", "red", "the", "grade"]
    assert [each.kind for each in config.question_list] == [
        "single-label", "several-labels", "score",
    ]  # fmt: skip


def calibrated(folder: Path, *more: object):
    return invoke(
        "calibrate", "--model", folder / "model", "--corpus", folder / "corpus.parquet",
        "--max-disagreement", 0.1, *more,
    )  # fmt: skip


def test_a_promise_for_each_and_what_each_gets(trained, tmp_path, monkeypatch):
    folder, _ = trained
    refused(calibrated(folder), "question 'grade'", "--tolerance grade=D")
    refused(calibrated(folder, "--cutoff", "topic=3", "--cutoff", "grade=1"), "'topic': --cutoff")
    refused(calibrated(folder, "--cutoff", "grade=x"), "--cutoff is 'grade=x'")
    for odd in ("gradd=1", "1"):
        refused(calibrated(folder, "--cutoff", "grade=1", "--cutoff", odd), "names no question")
    result = calibrated(folder, "--cutoff", "grade=0.5")
    assert result.exit_code == 0, result.output
    point = json.loads(result.stdout.splitlines()[-1])["operating_point"]
    assert point["name"] == "max-disagreement-0.1"
    again = json.loads(calibrated(folder, "--cutoff", "grade=0.5").stdout.splitlines()[-1])
    assert again["operating_point"]["name"] == "max-disagreement-0.1"  # the same, not another one
    assert [*point["questions"]] == ["topic", "tags", "grade"]
    assert point["questions"]["grade"]["within"] == [0.5]
    assert all(each["promise"]["share"] == 0.1 for each in point["questions"].values())

    monkeypatch.setattr("pipelines.running.executor.Chosen", InProcess)
    (tmp_path / "in").mkdir()
    table = rows(300, 3)
    mine = table.append_column("topic_label", table["topic"])
    mine = pa.concat_tables([mine, mine.slice(0, 1).set_column(0, "text", pa.array([""]))])
    pq.write_table(mine, tmp_path / "in" / "a.parquet")
    asked = ["--input", tmp_path / "in", "--output", tmp_path / "out",
             "--model", folder / "model", "--audit-rate", 0.5, "--precision", "fp32",
             "--slice-rows", 100, "--all-scores"]  # fmt: skip
    result = invoke("label", *asked)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout.splitlines()[-1])
    audits = {each["question"]: each for each in summary["question_audits"]}
    assert audits.keys() == {"topic", "tags", "grade"}
    assert all(each["promised_agreement"] == 0.9 for each in audits.values())
    assert all(each["audit_agreement"] > 0.8 for each in audits.values())
    out = table_of(tmp_path / "out")
    sure = ["exit_layer", "uncertainty"]
    assert out.column_names == [
        "topic", "tags", "grade", "input_topic_label",
        *(f"topic_{name}" for name in ("label", "score", *sure, "audit_label")),
        *(f"tags_{name}" for name in ("labels", "label_scores", *sure, "audit_labels")),
        *(f"grade_{name}" for name in ("value", *sure, "audit_value")),
        "exit_layer", "tokens", "flops", "error", "truncated", "topic_scores", "tags_scores",
    ]  # fmt: skip
    assert json.loads(out.schema.field("topic_scores").metadata[b"classes"]) == ["other", "the"]
    answered = out.slice(0, 300)
    layers = np.stack([answered[f"{name}_exit_layer"].to_numpy() for name in audits])
    assert answered["exit_layer"].to_pylist() == layers.max(0).tolist()
    assert (layers.min(0) < layers.max(0)).any()
    assert out["error"][300].as_py() == "text is empty"
    assert all(out[name][300].as_py() is None for name in ("topic_label", "grade_value"))
    flops = answered["flops"].to_numpy()
    cost = CostModel(load_model(folder / "model"))
    assert flops.max() <= cost.row_flops(answered["tokens"].to_numpy(),
                                         np.full(300, len(cost.exits) - 1)).max()  # fmt: skip

    library = fastbert.load(folder / "model", precision="fp32")
    texts = mine["text"].to_pylist()
    same = library.label(texts, as_="arrow", all_scores=True)
    for name in same.column_names:
        if same[name].type in (pa.float32(), pa.list_(pa.float32())):
            continue
        assert same[name].to_pylist() == out[name].to_pylist(), name
    first = library.label(texts[:1])[0]
    assert first["topic"].label == out["topic_label"][0].as_py()
    assert first["grade"].value == pytest.approx(out["grade_value"][0].as_py(), rel=1e-4)
    assert first["tags"].exit_layer == out["tags_exit_layer"][0].as_py()

    again = json.loads(invoke("label", *asked).stdout.splitlines()[-1])
    assert again["slices_labelled"] == 0
    report = invoke("report", "--output", tmp_path / "out", "--least-certain", 2, "--text-from",
                    tmp_path / "in", "--html", tmp_path / "r.html")  # fmt: skip
    assert report.exit_code == 0, report.output
    told = json.loads(report.stdout.splitlines()[-1])
    by_question = {row["question"]: row for row in told["questions"]}
    assert {name: row["rows"] for name, row in by_question.items()} == dict.fromkeys(audits, 300)
    for name, row in by_question.items():
        share = 100 * audits[name]["audit_agreement"]
        assert row["audit_agreement_percent"] == pytest.approx(share, abs=0.01)
        assert row["mean_layer"] == pytest.approx(
            answered[f"{name}_exit_layer"].to_numpy().mean(), abs=0.01
        )
    labels = {row["label"] for row in told["labels"]}
    assert {"topic: the", "topic: other", "grade: from 0.5"} <= labels
    assert len(told["least_certain"]) == 2
    assert invoke("export", "--output", tmp_path / "out", "--delta", tmp_path / "d").exit_code == 0


def test_evaluation_of_each(trained):
    folder, _ = trained
    result = invoke("evaluate", "--model", folder / "model", "--data", folder / "train.parquet",
                    "--no-timing")  # fmt: skip
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])["questions"]
    assert found["topic"]["speeds"][0]["accuracy"] > 0.6
    assert found["tags"]["speeds"][0]["micro_f1"] > 0.2
    assert found["grade"]["speeds"][0]["r2"] > 0.2
    refused(invoke("evaluate", "--model", folder / "model", "--data", folder / "train.parquet",
                   "--label-column", "topic", "--label-column", "tags"),
            "answers 3 questions", "topic, tags, grade")  # fmt: skip


@pytest.mark.parametrize(
    "names", [("a", "A"), ("a", "a_audit"), ("x", "x_label"), ("a", 'b"'), ("a", "a")]
)
def test_questions_whose_columns_could_not_be_told_apart(names, tmp_path):
    texts = random_texts(8)
    table = pa.table([texts, ["x", "y"] * 4, ["x", "y"] * 4], names=["text", *names])
    pq.write_table(table, tmp_path / "a.parquet")
    asked = [part for name in names for part in ("--label-column", name)]
    said = {("a", 'b"'): "without quotes", ("a", "a"): ""}.get(names, "two columns of the output")
    refused(invoke("train", "--train", tmp_path / "a.parquet", *asked, "--output", tmp_path / "m"),
            said)  # fmt: skip
    with pytest.raises(fastbert.InputError):
        questions_of([{"name": name, "classes": 2} for name in names], None)


def test_points_that_this_release_does_not_know_are_refused(trained, tmp_path):
    folder, _ = trained
    model = Path(shutil.copytree(folder / "model", tmp_path / "model"))
    config = json.loads((model / "config.json").read_text())
    point = config["operating_points"][config["default_operating_point"]]
    point["questions"]["topic"]["patience"] = 3
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(fastbert.InputError, match="'patience', unknown to this release"):
        fastbert.load(model).point()


def test_columns_are_told_apart_as_sql_does():
    added = output_schema({"Topic": "single-label", "tone": "score"})
    schema = pa.schema([("text", pa.string()), ("topic_LABEL", pa.string()), ("x", pa.int8())])
    assert InputColumns(added=added).carried(schema) == {
        "topic_LABEL": "input_topic_LABEL", "x": "x",
    }  # fmt: skip


# Classifiers on one backbone.


@pytest.fixture
def teachers(tmp_path) -> Path:
    """`topics` and `toxic`, heads on one backbone, and `other`, on another one."""
    for name, classes, seed in (("topics", 4, 0), ("toxic", 1, 0), ("other", 4, 9)):
        teacher = tiny_classifier(labels=classes, seed=seed)
        if name == "toxic":
            shared = tiny_classifier(labels=4).bert.state_dict()
            teacher.bert.load_state_dict({k: v for k, v in shared.items() if "pooler" not in k},
                                         strict=False)  # fmt: skip
            teacher.config.problem_type = "regression"
        teacher.save_pretrained(tmp_path / name)
        tiny_tokenizer(tmp_path).save_pretrained(tmp_path / name)
    pq.write_table(pa.table({"text": random_texts(60, seed=5)}), tmp_path / "texts.parquet")
    return tmp_path


def distilled(folder: Path, names: list[str], *more: object):
    teachers = [part for name in names for part in ("--teacher", folder / name)]
    return invoke(
        "distill", *teachers, "--corpus", folder / "texts.parquet", "--output", folder / "model",
        "--distil-epochs", 1, "--max-length", 16, *more,
    )  # fmt: skip


def test_classifiers_on_one_backbone_are_one_pass(teachers):
    result = distilled(teachers, ["topics", "toxic"])
    assert result.exit_code == 0, result.output
    text = random_texts(1, seed=9)
    (found,) = fastbert.load(teachers / "model", precision="fp32").label(text, speed=0)
    for name, function in (("topics", "softmax"), ("toxic", "none")):
        ask = pipeline("text-classification", model=str(teachers / name),
                       tokenizer=str(teachers / name))  # fmt: skip
        (theirs,) = ask(text, function_to_apply=function)
        if name == "toxic":
            assert found[name].value == pytest.approx(theirs["score"], abs=1e-5)
        else:
            assert found[name].label == theirs["label"]
            assert found[name].score == pytest.approx(theirs["score"], abs=1e-5)
    result = distilled(teachers, ["topics", "toxic"], "--question", "about", "--question", "harm")
    assert result.exit_code == 0, result.output
    assert [*fastbert.load(teachers / "model").label(text, speed=0)[0]] == ["about", "harm"]


def test_others_are_refused(teachers):
    refused(distilled(teachers, ["topics", "other"]), "the backbones of", "differ, for example in")
    refused(distilled(teachers, ["topics", "topics"]), "two columns of the output", "--question")
    refused(distilled(teachers, ["topics", "toxic"], "--question", "one"), "names 1 questions")
    path = teachers / "toxic" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_lower_case": False}))
    words = teachers / "toxic" / "tokenizer.json"
    values = json.loads(words.read_text())
    values["normalizer"]["lowercase"] = False
    words.write_text(json.dumps(values))
    refused(distilled(teachers, ["topics", "toxic"]), "the tokenizers of")
