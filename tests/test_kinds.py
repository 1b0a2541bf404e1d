"""Several labels and scores through the commands: learn, prove, label, report, go on."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from support.jobs import invoke, refused
from support.labelling import table_of
from support.models import save_tiny_models, tiny_classifier, tiny_tokenizer
from support.shards import WORDS, random_texts
from support.stages import InProcess

import fastbert
from fastbert.exits.question import Question
from fastbert.tasks import task_of
from fastbert.weights import load_model
from pipelines.input.targets import Targets

LEARN = ["--epochs", 10, "--learning-rate", 3e-3, "--distil-epochs", 4, "--batch-size", 16,
         "--max-length", 16]  # fmt: skip


def labels_of(text: str) -> list[str]:
    return [word for word in WORDS[:3] if word in text.split()]


def score_of(text: str) -> float:
    words = text.split()
    return 50.0 + 10.0 * sum(word == WORDS[0] for word in words) - 7.0 * (WORDS[1] in words)


TRUTH = {
    "several-labels": ("labels", labels_of, pa.list_(pa.string())),
    "score": ("grade", score_of, pa.float64()),
}
#: What calibration is asked for, and where rows are looked at.
ASKED = {
    "several-labels": [],
    "score": ["--cutoff", 45.5, "--cutoff", 55],
}
ANSWER = {"several-labels": "labels", "score": "value"}


def shard(path: Path, kind: str, rows: int, seed: int) -> Path:
    column, truth, of = TRUTH[kind]
    texts = random_texts(rows, seed=seed, longest=6)
    path.parent.mkdir(parents=True, exist_ok=True)
    values = pa.array([truth(text) for text in texts], of)
    pq.write_table(pa.table({"text": texts, column: values}), path)
    return path


@pytest.fixture(scope="module", params=TRUTH)
def trained(request, tmp_path_factory):
    """A kind, a folder with a `model` of it, trained by the command, and its summary."""
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    tiny_classifier().base_model.save_pretrained(folder / "backbone")
    tiny_tokenizer(folder).save_pretrained(folder / "backbone")
    shard(folder / "train.parquet", kind, 1200, 1)
    shard(folder / "corpus.parquet", kind, 1500, 2)
    result = invoke(
        "train", "--train", folder / "train.parquet", "--label-column", TRUTH[kind][0],
        "--backbone", folder / "backbone", "--output", folder / "model", *LEARN,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return kind, folder, json.loads(result.stdout.splitlines()[-1])


def test_what_is_learnt_is_told(trained):
    kind, folder, summary = trained
    model = load_model(folder / "model")
    assert model.config.question.kind == kind
    if kind == "score":
        assert summary["dev_r2"] > 0.5
        assert model.config.question.centre == pytest.approx(48, abs=6)
        within = summary["operating_point"]["within"]
        assert within == [float(f"{0.25 * model.config.question.scale:.2g}")]
        assert model.config.label_names == ["grade"]
    else:
        assert summary["dev_micro_f1"] > 0.8
        assert model.config.label_names == sorted(WORDS[:3])
        assert summary["dev_constant_accuracy"] < summary["dev_accuracy"]


def calibrated(folder: Path, kind: str) -> dict:
    result = invoke(
        "calibrate", "--model", folder / "model", "--corpus", folder / "corpus.parquet",
        "--max-disagreement", 0.1, *ASKED[kind],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


def test_from_a_promise_to_a_report(trained, tmp_path, monkeypatch):
    """Labelled by the command and by the library alike; audited, reported, exported, and gone on
    with."""
    kind, folder, _ = trained
    point = calibrated(folder, kind)["operating_point"]
    assert point["within"] == ([45.5, 55.0] if kind == "score" else None)
    monkeypatch.setattr("pipelines.running.executor.Chosen", InProcess)
    corpus = shard(tmp_path / "in" / "a.parquet", kind, 300, 3)
    rows = pq.read_table(corpus).append_column("error", pa.array(["mine"] * 300))
    rows = pa.concat_tables([rows, rows.slice(0, 1).set_column(0, "text", pa.array([""]))])
    pq.write_table(rows, corpus)
    asked = ["--input", tmp_path / "in", "--output", tmp_path / "out",
             "--model", folder / "model", "--audit-rate", 0.5, "--precision", "fp32",
             "--slice-rows", 100]  # fmt: skip
    all_scores = ["--all-scores"] if kind == "several-labels" else []
    result = invoke("label", *asked, *all_scores)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout.splitlines()[-1])
    assert summary["error_rows"] == 1
    assert summary["audit_agreement"] > 0.8
    table, answer = table_of(tmp_path / "out"), ANSWER[kind]
    ours = table.column_names[table.column_names.index("input_error") + 1 :]
    first = ["labels", "label_scores"] if kind == "several-labels" else ["value"]
    costs = ["exit_layer", "uncertainty", "tokens", "flops"]
    assert ours == [*first, *costs, f"audit_{answer}", "error", "truncated",
                    *(["scores"] if all_scores else [])]  # fmt: skip
    assert table[answer].null_count == 1
    assert 0 < table[f"audit_{answer}"].null_count < 200
    assert table["exit_layer"].to_pylist()[:300].count(0) > 0  # before the first layer
    if all_scores:
        names = json.loads(table.schema.field("scores").metadata[b"classes"])
        assert names == sorted(WORDS[:3])
        listed = dict(zip(names, table["scores"][0].as_py(), strict=True))
        assert {name for name, p in listed.items() if p > 0.5} == {*table["labels"][0].as_py()}
    model = fastbert.load(folder / "model", precision="fp32")
    found = model.label(rows["text"].to_pylist(), as_="arrow")
    assert found["exit_layer"].to_pylist() == table["exit_layer"].to_pylist()
    if kind == "score":
        np.testing.assert_allclose(found["value"].to_numpy()[:300], table["value"].to_numpy()[:300],
                                   rtol=1e-5)  # fmt: skip
        sides = np.digitize(table["value"].to_numpy()[:300], [45.5, 55.0])
        truth = np.digitize(table["grade"].to_numpy()[:300], [45.5, 55.0])
        assert (sides == truth).mean() > 0.8
    else:
        assert found["labels"].to_pylist() == table["labels"].to_pylist()
    again = json.loads(invoke("label", *asked).stdout.splitlines()[-1])
    assert again["slices_labelled"] == 0
    truth = "grade" if kind == "score" else "input_labels"
    report = invoke("report", "--output", tmp_path / "out", "--truth-column", truth,
                    "--least-certain", 3, "--text-from", tmp_path / "in",
                    "--html", tmp_path / "report.html")  # fmt: skip
    assert report.exit_code == 0, report.output
    told = json.loads(report.stdout.splitlines()[-1])
    assert len(told["least_certain"]) == 3
    assert all(row["label"] for row in told["least_certain"])
    measure = "mean_absolute_error" if kind == "score" else "accuracy_percent"
    assert all(row[measure] > 0 for row in told["accuracy"] if row["rows"] > 20)
    labels = {row["label"] for row in told["labels"]}
    known = {"below 45.5", "45.5 to 55", "from 55"} if kind == "score" else {*WORDS[:3], "(none)"}
    assert labels <= known
    export = invoke("export", "--output", tmp_path / "out", "--delta", tmp_path / "delta")
    assert export.exit_code == 0, export.output
    if all_scores:
        exported = pa.schema(DeltaTable(str(tmp_path / "delta")).schema().to_arrow())
        assert json.loads(exported.field("scores").metadata[b"classes"]) == names


def test_evaluation_has_the_tasks_measures(trained):
    kind, folder, _ = trained
    asked = ["evaluate", "--model", folder / "model", "--data", folder / "corpus.parquet",
             "--no-timing", "--label-column", TRUTH[kind][0]]  # fmt: skip
    result = invoke(*asked)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout.splitlines()[-1])
    measure = "r2" if kind == "score" else "micro_f1"
    assert summary["speeds"][0][measure] > 0.5
    assert all(measure in point for point in summary["operating_points"].values())
    if kind == "score":
        refused(invoke(*asked, "--speeds", 0.5), "--speed is 0.5", "a score does not have")


def test_what_means_nothing_is_refused_by_name(trained, tmp_path):
    kind, folder, _ = trained
    calibrate = ["calibrate", "--model", folder / "model", "--corpus", folder / "corpus.parquet"]
    label = ["label", "--model", folder / "model", "--input", folder / "corpus.parquet",
             "--output", tmp_path / "out"]  # fmt: skip
    if kind == "score":
        refused(invoke(*calibrate, "--max-disagreement", 0.1), "--tolerance", "--cutoff")
        refused(invoke(*calibrate, "--max-accuracy-loss", 0.1), "--max-accuracy-loss", "score")
        refused(invoke(*calibrate, "--max-disagreement", 0.1, "--tolerance", 1, "--criterion",
                       "margin"), "--criterion is 'margin'")  # fmt: skip
        refused(invoke(*calibrate, "--max-disagreement", 0.1, "--tolerance", 1, "--cutoff", 2),
                "pass one of --tolerance")  # fmt: skip
        refused(invoke(*label, "--speed", 0.5), "--speed is 0.5", "entropy")
        refused(invoke(*label, "--all-scores"), "--all-scores", "score")
    else:
        refused(invoke(*calibrate, "--max-disagreement", 0.1, "--tolerance", 1), "--tolerance")
        refused(invoke(*calibrate, "--max-disagreement", 0.1, "--criterion", "margin"),
                "--criterion is 'margin'", "tempered-entropy")  # fmt: skip


# What a classifier that exists is for.


def saved(folder: Path, classes: int, problem: str | None) -> Path:
    teacher = tiny_classifier(labels=classes)
    teacher.config.problem_type = problem
    teacher.save_pretrained(folder / "teacher")
    tiny_tokenizer(folder).save_pretrained(folder / "teacher")
    pq.write_table(pa.table({"text": random_texts(60, seed=5)}), folder / "texts.parquet")
    return folder / "teacher"


def distilled(folder: Path, *more: object):
    return invoke(
        "distill", "--teacher", folder / "teacher", "--corpus", folder / "texts.parquet",
        "--output", folder / "model", "--distil-epochs", 1, "--max-length", 16, *more,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("classes", "problem", "options", "kind"),
    [
        (5, None, [], "single-label"),
        (5, None, ["--task", "several-labels"], "several-labels"),
        (5, "multi_label_classification", [], "several-labels"),
        (1, "multi_label_classification", [], "several-labels"),
        (1, "regression", [], "score"),
        (1, None, ["--task", "score"], "score"),
        (5, "multi_label_classification", ["--task", "single-label"], "single-label"),
    ],
)
def test_problem_type_or_task_decide(classes, problem, options, kind, tmp_path):
    teacher = saved(tmp_path, classes, problem)
    result = distilled(tmp_path, *options)
    assert result.exit_code == 0, result.output
    model = load_model(tmp_path / "model")
    assert model.config.question.kind == kind
    text = random_texts(1, seed=9)
    (found,) = fastbert.load(tmp_path / "model", precision="fp32").label(text, speed=0)
    from transformers import pipeline

    function = {"single-label": "softmax", "several-labels": "sigmoid", "score": "none"}[kind]
    ask = pipeline("text-classification", model=str(teacher), tokenizer=str(teacher))
    theirs = {each["label"]: each["score"]
              for each in ask(text, top_k=None, function_to_apply=function)[0]}  # fmt: skip
    if kind == "score":
        assert found.value == pytest.approx(theirs["LABEL_0"], abs=1e-5)
    elif kind == "single-label":
        assert found.score == pytest.approx(theirs[found.label], abs=1e-5)
    else:
        assert {*found.labels} == {name for name, p in theirs.items() if p > 0.5}
    # And as a Hugging Face model itself.
    mine = pipeline("text-classification", model=str(tmp_path / "model"),
                    tokenizer=str(tmp_path / "model"))  # fmt: skip
    (again,) = mine(text, top_k=None)
    used = {each["label"]: each["score"] for each in again}
    if problem or options:
        assert used == pytest.approx(theirs, abs=1e-5)


def test_one_class_without_a_problem_type_is_asked_about(tmp_path):
    saved(tmp_path, 1, None)
    refused(distilled(tmp_path), "--task score", "--task several-labels")


def test_a_sigmoid_model_that_does_not_say_so_is_doubted(tmp_path, caplog):
    caplog.set_level("INFO")
    teacher = tiny_classifier()
    with __import__("torch").no_grad():
        teacher.classifier.bias -= 6.0  # none of the labels is likely
    teacher.save_pretrained(tmp_path / "teacher")
    tiny_tokenizer(tmp_path).save_pretrained(tmp_path / "teacher")
    pq.write_table(pa.table({"text": random_texts(60, seed=5)}), tmp_path / "texts.parquet")
    assert distilled(tmp_path).exit_code == 0
    assert "--task several-labels if it is not" in caplog.text


def test_cut_offs_are_part_of_the_checkpoint(tmp_path):
    saved(tmp_path, 5, "multi_label_classification")
    refused(distilled(tmp_path, "--cutoff", "LABEL_9=0.3"), "LABEL_9=0.3", "LABEL_0")
    refused(distilled(tmp_path, "--cutoff", 1.5), "--cutoff is '1.5'")
    assert distilled(tmp_path, "--cutoff", "LABEL_1=0.3", "--cutoff", 0.4).exit_code == 0
    question = load_model(tmp_path / "model").config.question
    assert question == Question("several-labels", cutoffs=[0.4, 0.3, 0.4, 0.4, 0.4])
    saved(tmp_path / "one" if (tmp_path / "one").mkdir() is None else tmp_path, 5, None)
    refused(distilled(tmp_path / "one", "--cutoff", 0.4), "goes with several labels")


# What columns say.


def learnt(folder: Path, values: pa.Array, *more: object):
    tiny_classifier().base_model.save_pretrained(folder / "backbone")
    tiny_tokenizer(folder).save_pretrained(folder / "backbone")
    rows = pa.table({"text": random_texts(len(values), seed=1), "label": values})
    pq.write_table(rows, folder / "train.parquet")
    return invoke(
        "train", "--train", folder / "train.parquet", "--backbone", folder / "backbone",
        "--output", folder / "model", "--epochs", 1, "--distil-epochs", 1, "--max-length", 16,
        *more,
    )  # fmt: skip


N = 60
TWO = (["a", "b"] * N)[:N]


@pytest.mark.parametrize(
    ("values", "options", "kind", "names"),
    [
        (pa.array(TWO), [], "single-label", ["a", "b"]),
        (pa.array(range(N)), ["--task", "score"], "score", ["label"]),
        (pa.array(np.arange(N) % 3 + 0.0), [], "score", ["label"]),
        (pa.array(range(N)), ["--task", "label=score"], "score", ["label"]),
        (pa.array([2**53 + 1 + k for k in range(N)]), ["--task", "score"], "score", ["label"]),
        (pa.array(np.arange(N) % 3 + 0.0), ["--task", "single-label"], "single-label",
         ["0", "1", "2"]),
        (pa.array([[name] for name in TWO]), [], "several-labels", ["a", "b"]),
        (pa.array([[0.25, 0.75]] * N), [], "single-label", ["0", "1"]),
        (pa.array([{"no": 0.25, "yes": 0.75}] * N), [], "single-label", ["no", "yes"]),
        (pa.array([{"no": 0.5, "yes": 0.75}] * N), ["--task", "several-labels"], "several-labels",
         ["no", "yes"]),
    ],
)  # fmt: skip
def test_columns_decide(values, options, kind, names, tmp_path):
    result = learnt(tmp_path, values, *options)
    assert result.exit_code in (0, 3), result.output
    config = load_model(tmp_path / "model").config
    assert (config.question.kind, config.label_names) == (kind, names)


@pytest.mark.parametrize(
    ("values", "options", "said"),
    [
        (pa.array([{"no": 0.5, "yes": 0.75}] * N), [], ["do not add up to 1", "--task"]),
        (pa.array([[4.0, 3.0]] * N), [], ["probabilities from 0 to 1"]),
        (pa.array([[0.5, 0.5], [1.0]] * N), [], ["in every row"]),
        (pa.array([1.0] * N), [], ["all 60 scores are 1", "differ"]),
        (pa.array([1.0, math.nan] * N), [], ["have no label"]),
        (pa.array([["a"], None] * N), [], ["have no label"]),
        (pa.array([["a"], [None]] * N), [], ["have no label"]),
        (pa.array([[]] * N, pa.list_(pa.string())), [], ["no row has a label"]),
        (pa.array(TWO), ["--task", "score"], ["is of type string", "expected numbers"]),
        (pa.array(TWO), ["--task", "several-labels"], ["expected lists of strings"]),
        (pa.array(TWO), ["--cutoff", 0.3], ["goes with several labels"]),
        (pa.array([[0, 1, 1], [1, 0, 0]] * N), [], ["has a value twice in a row", "cast it"]),
        (pa.array([[0.0, 0.0], [1.0, 0.0]] * N), ["--task", "single-label"], ["all probabilities"]),
        (pa.array(TWO), ["--task", "odd"], ["--task is 'odd'"]),
        (
            pa.array(TWO),
            ["--task", "labels=score"],
            ["--task is 'labels=score'", "NAME from label"],
        ),
    ],
)
def test_columns_that_tell_nothing(values, options, said, tmp_path):
    refused(learnt(tmp_path, values, *options), *said)


def test_a_newer_checkpoint_is_refused(tmp_path):
    save_tiny_models(tmp_path)
    path = tmp_path / "model" / "config.json"
    for questions, said in (
        ([{"kind": "odd"}], "questions cannot be read"),
        ([{}, {}], "questions are named"),
        (
            [{"kind": "score", "scale": 0.0}],
            "id2label names 5 classes, expected one for the task score",
        ),
        ([{"kind": "several-labels", "cutoffs": [0.5]}], "cutoffs is [0.5]"),
    ):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"questions": questions}))
        with pytest.raises(fastbert.InputError, match=said.replace("[", "\\[")):
            fastbert.load(tmp_path / "model")


# What shards say together.


def shards_of(*columns: pa.Array) -> tuple[Targets, list[str], list]:
    targets = Targets("label", None)
    for values in columns:
        targets.add(pa.chunked_array([values]))
    names, found = targets.finish(None)
    return targets, names, found


def test_fields_have_names_not_places():
    first = pa.array([{"b": 0.25, "a": 0.75}])
    _, names, found = shards_of(first, pa.array([{"a": 1.0, "b": 0.0}]))
    assert names == ["b", "a"]
    assert found == [[0.25, 0.75], [0.0, 1.0]]
    for other in ([{"a": 0.5, "c": 0.5}], [{"a": 0.5, "b": 0.25, "c": 0.25}]):
        with pytest.raises(fastbert.InputError, match="expected a number for each of b, a"):
            shards_of(first, pa.array(other))
    with pytest.raises(fastbert.InputError, match="that of the shards before"):
        shards_of(first, pa.array([["a"]]))


def test_a_shard_without_values_says_nothing_of_the_type():
    with pytest.raises(fastbert.InputError, match="2 of 3 rows have no label"):
        shards_of(pa.nulls(2), pa.array([1.5]))


def test_a_score_that_is_no_number_counts_as_the_mean():
    task = task_of(Question("score"), ["x"])
    known = task.truth(np.array([1.0, 2.0, 3.0]))
    found = task.quality(task.truth(np.array([1.0, np.nan, 3.0])), known)
    assert found == pytest.approx({"r2": 1.0, "mean_absolute_error": 0.0})


def test_an_output_of_an_output_has_one_answer(tmp_path, monkeypatch):
    """Its carried columns look like those of a question."""
    save_tiny_models(tmp_path)
    monkeypatch.setattr("pipelines.running.executor.Chosen", InProcess)
    (tmp_path / "in").mkdir()
    texts = random_texts(30, seed=1)
    pq.write_table(pa.table({"text": texts, "truth": ["x"] * 30}), tmp_path / "in" / "a.parquet")
    for source, output in (("in", "one"), ("one/table", "two")):
        asked = ["--input", tmp_path / source, "--output", tmp_path / output,
                 "--model", tmp_path / "model", "--speed", 0.5, "--carry", "text",
                 "--carry", "truth"]  # fmt: skip
        if output == "two":
            asked += [part for name in ("label", "score", "exit_layer", "uncertainty")
                      for part in ("--carry", name)]  # fmt: skip
        assert invoke("label", *asked).exit_code == 0
    report = invoke("report", "--output", tmp_path / "two", "--truth-column", "truth",
                    "--least-certain", 3)  # fmt: skip
    assert report.exit_code == 0, report.output
    found = json.loads(report.stdout.splitlines()[-1])["least_certain"]
    assert found[0].keys() == {"label", "score", "layer", "uncertainty", "shard", "row"}
