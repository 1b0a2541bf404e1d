"""Odd models, walked through all commands that take one: they work, or are refused in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file
from support.jobs import invoke, refused
from support.labelling import settings
from support.models import (
    CLASSES,
    POSITIONS,
    make_noisy,
    save_tiny_models,
    tiny_classifier,
)
from support.shards import random_texts
from support.stages import InProcess

import fastbert
from fastbert.configuration import FastBertConfig
from fastbert.model import FastBertForSequenceClassification
from fastbert.weights import load_model
from pipelines.labelling.job import label

NAMES = [f"LABEL_{k}" for k in range(CLASSES)]
WORDS = "tokenizer_config.json"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A teacher, which is a backbone, too, a checkpoint, and a corpus."""
    place = tmp_path_factory.mktemp("odd")
    save_tiny_models(place)
    texts = random_texts(9)
    columns = {"text": texts, "pair": texts[::-1], "label": (NAMES * 2)[:9]}
    pq.write_table(pa.table(columns), place / "corpus.parquet")
    return place


def edited(path: Path, changes: dict) -> None:
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in values.items() if v != "left out"}))


def commands(model: str, folder: Path, place: Path, options: list[str]) -> dict[str, Callable]:
    """How every command that takes the model is called, none of which writes to it."""
    corpus, output = place / "corpus.parquet", folder.parent / "output"
    shutil.rmtree(output, ignore_errors=True)
    learn = ["--output", output, "--distil-epochs", 1, "--max-length", 9, *options]
    calls = {
        "teacher": {
            "distill": ["--teacher", folder, "--corpus", corpus, *learn],
            "train": ["--backbone", folder, "--train", corpus, "--epochs", 1, *learn],
        },
        "model": {
            "evaluate": ["--model", folder, "--data", corpus, "--no-timing", *options],
            "calibrate": ["--model", folder, "--corpus", corpus, "--max-disagreement", 0.9,
                          *options],
            "label": ["--model", folder, "--input", corpus, "--output", output, "--dry-run",
                      "--speed", 0.5, *options],
        },
    }  # fmt: skip
    return calls[model]


def walk(model: str, folder: Path, place: Path, *options: str, jobs=None) -> set[int]:
    """The exit codes of all commands, or of some and the library: 0, or 2 with one line. Labelling
    happens in this process; what it has made is reported and exported."""
    codes = set()
    calls = commands(model, folder, place, [*options])
    for job, arguments in calls.items():
        if jobs and job not in jobs:
            continue
        result = invoke(job, *arguments)
        codes.add(result.exit_code)
        if result.exit_code:
            refused(result)
    parts = ["--checkpoint", folder / "model.safetensors", "--vocabulary", folder / "vocab.txt"]
    refused(invoke("convert", *parts, "--output", folder.parent / "new"))
    if model == "model":
        output = folder.parent / "output"
        real = [each for each in calls["label"] if each != "--dry-run"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pipelines.running.executor.Chosen", InProcess)
            result = invoke("label", *real, "--precision", "fp32")
        codes.add(result.exit_code)
        others = {
            "report": ["--output", output],
            "export": ["--output", output, "--delta", folder.parent / "delta"],
        }
        for job, arguments in others.items():
            after = invoke(job, *arguments)
            assert after.exit_code == result.exit_code, after.output
            if after.exit_code:
                refused(after)
    if model == "model":
        texts = [("a river", "a stone")] if options else ["a river"]
        try:
            fastbert.load(folder).label(texts, speed=0)
        except fastbert.InputError as error:
            codes.add(1 if "\n" in str(error) else 2)
    return codes


#: One command for each way to load a model and its tokenizer.
LOADING = ("distill", "label")


@pytest.fixture
def copy(place, tmp_path) -> Callable[[str], Path]:
    return lambda model: Path(shutil.copytree(place / model, tmp_path / model))


#: Of config.json, or of a checkpoint's backbone.
ENCODER = [
    {"model_type": "left out"},
    {"model_type": ["bert"]},
    {"hidden_size": 35},
    {"num_hidden_layers": 0},
    {"num_hidden_layers": 2},
    {"num_hidden_layers": 4},
    {"num_attention_heads": 5},
    {"hidden_act": "nope"},
    {"type_vocab_size": 0},
    {"max_position_embeddings": POSITIONS + 1},
    {"layer_norm_eps": -1.0},
    {"layer_norm_eps": float("inf")},
    {"hidden_dropout_prob": 2.0},
    {"pad_token_id": 1000},
    {"is_decoder": True},
]


@pytest.mark.parametrize("changes", ENCODER, ids=str)
def test_encoders_that_cannot_be(changes, place, copy):
    folder = copy("teacher")
    edited(folder / "config.json", changes)
    assert walk("teacher", folder, place) == {2}
    folder = copy("model")
    backbone = json.loads((folder / "config.json").read_text())["backbone"] | changes
    kept = {k: v for k, v in backbone.items() if v != "left out"}
    edited(folder / "config.json", {"backbone": kept})
    assert walk("model", folder, place) == {2}


CHECKPOINT = [
    {"model_type": "left out"},
    {"backbone": None},
    {"branch_size": "14"},
    {"branch_size": 0},
    {"branch_heads": 5},
    {"max_length": 2},
    {"max_length": "x"},
    {"max_length": POSITIONS + 1},
    {"teacher_activation": "nope"},
    {"teacher_activation": None},
    {"adopted_heads": [{"activation": "tanh"}]},
    {"adopted_heads": [{"pooling": "max"}], "teacher_activation": None},
    {"adopted_heads": [{"activation": "nope"}], "teacher_activation": None},
    {"adopted_heads": [{"activation": "tanh", "norm": -1.0}], "teacher_activation": None},
    {"adopted_heads": 3},
    {"exits": []},
    {"exits": [{"depth": "x"}]},
    {"exits": [{"depth": 1}]},
    {"operating_points": [0.5]},
    {"default_operating_point": 3},
]


@pytest.mark.parametrize("changes", CHECKPOINT, ids=str)
def test_checkpoints_that_cannot_be(changes, place, copy):
    folder = copy("model")
    edited(folder / "config.json", changes)
    assert walk("model", folder, place) == {2}


@pytest.mark.parametrize(
    "thresholds",
    [[0.1], [0.1] * 3, ["a", "b"], [0.1, None], [0.1, float("nan")], [0.1, float("inf")], "ab", 3],
    ids=str,
)
def test_operating_points_that_cannot_be(thresholds, place, copy):
    folder = copy("model")
    points = {"p": {"thresholds": thresholds}}
    edited(folder / "config.json", {"operating_points": points, "default_operating_point": "p"})
    common = ["--model", folder, "--input", place / "corpus.parquet", "--output"]
    refused(invoke("label", *common, folder.parent / "o"), "operating point 'p' cannot be used")
    with pytest.raises(fastbert.InputError, match="operating point 'p' cannot be used"):
        fastbert.load(folder).label(["a river"])


CLASSES_THAT_CANNOT_BE = [
    {"id2label": {str(k + 1): name for k, name in enumerate(NAMES)}},
    {"id2label": {str(k): name for k, name in zip((0, 1, 2, 3, 5), NAMES, strict=True)}},
    {"id2label": dict.fromkeys("abcde", "x")},
    {"id2label": {str(k): None for k in range(CLASSES)}},
    {"id2label": {str(k): ["x"] for k in range(CLASSES)}},
    {"id2label": {str(k): f"\ud800{k}" for k in range(CLASSES)}},
    {"id2label": NAMES},
    {"id2label": {}},
    {"id2label": None},
    {"id2label": {str(k): f"L{k}" for k in range(CLASSES + 2)}},
    {"id2label": "left out", "num_labels": 1},
    {"id2label": "left out", "num_labels": "x"},
]


@pytest.mark.parametrize("model", ["teacher", "model"])
@pytest.mark.parametrize("changes", CLASSES_THAT_CANNOT_BE, ids=str)
def test_classes_that_cannot_be(changes, model, place, copy):
    folder = copy(model)
    edited(folder / "config.json", changes)
    job = "label" if model == "model" else "distill"
    refused(invoke(job, *commands(model, folder, place, [])[job]))


def test_a_head_of_another_size_is_told_with_the_classes(place, copy):
    folder = copy("teacher")
    names = {str(k): f"L{k}" for k in range(3)}
    edited(folder / "config.json", {"id2label": names})
    call = commands("teacher", folder, place, [])["distill"]
    refused(invoke("distill", *call), "has the shape [5]", "names 3 classes: L0, L1, L2")


def test_numbers_as_classes_become_strings(place, copy):
    folder = copy("teacher")
    edited(folder / "config.json", {"id2label": {str(k): k + 1 for k in range(CLASSES)}})
    assert invoke("distill", *commands("teacher", folder, place, [])["distill"]).exit_code == 0
    model = load_model(folder.parent / "output")
    assert model.config.label_names == ["1", "2", "3", "4", "5"]
    folder = copy("model")
    edited(folder / "config.json", {"id2label": {str(k): k + 1 for k in range(CLASSES)}})
    assert fastbert.load(folder).label(["a river"], speed=0)[0].label in "12345"


def test_two_classes_of_one_name(place, copy):
    """A checkpoint that has them labels on; nothing new is made of them, or judged by them."""
    names = dict(zip("01234", ["x", "y", "x", "z", "u"], strict=True))
    teacher, model = copy("teacher"), copy("model")
    for folder in (teacher, model):
        edited(folder / "config.json", {"id2label": names})
    distill = commands("teacher", teacher, place, [])["distill"]
    refused(invoke("distill", *distill), "two classes are named 'x'")
    calls = commands("model", model, place, [])
    refused(invoke("evaluate", *calls["evaluate"]), "two classes are named 'x'")
    assert invoke("evaluate", *calls["evaluate"], "--no-labels").exit_code == 0
    assert invoke("label", *calls["label"]).exit_code == 0


def test_class_numbers_that_contradict_are_told(place, copy, caplog):
    folder = copy("teacher")
    edited(folder / "config.json", {"label2id": {"LABEL_0": 1, "LABEL_1": 0}})
    result = invoke("distill", *commands("teacher", folder, place, [])["distill"])
    assert result.exit_code == 0
    assert "label2id" in caplog.text
    assert "contradicts its id2label" in caplog.text
    assert load_model(folder.parent / "output").config.label_names == NAMES


TOKENIZERS = [
    {"tokenizer_class": 3},
    {"model_max_length": "x"},
    {"padding_side": "x"},
    {"pad_token": 3},
    {"unk_token": "zzz"},
    {"added_tokens_decoder": {"x": {}}},
    {"extra_special_tokens": 3},
    {"model_input_names": 3},
]


@pytest.mark.parametrize("changes", TOKENIZERS, ids=str)
def test_tokenizers_that_cannot_be(changes, place, copy):
    jobs = None if changes is TOKENIZERS[0] else LOADING
    for model in ("teacher", "model"):
        folder = copy(model)
        edited(folder / WORDS, changes)
        assert walk(model, folder, place, jobs=jobs) == {2}


def test_the_tokenizers_own_length_does_not_matter(place, copy):
    folder = copy("model")
    long = ["a river runs " * 30]
    expected = fastbert.load(place / "model").label(long, speed=0)
    for length in (None, 2, 10**30, -1, 1.5):
        edited(folder / WORDS, {"model_max_length": length})
        assert fastbert.load(folder).label(long, speed=0) == expected, length


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", WORDS])
@pytest.mark.parametrize("text", ["[]", "\ufeff{}", "[" * 9999])
def test_files_that_are_no_settings(name, text, place, copy):
    for model in ("teacher", "model"):
        folder = copy(model)
        (folder / name).write_text(text)
        jobs = None if text == "[]" and name == "config.json" else LOADING
        assert walk(model, folder, place, jobs=jobs) <= ({0, 2} if name == WORDS else {2})


@pytest.mark.parametrize("text", ["", "{}", '{"weight_map": {"a": 3}}'])
def test_an_index_that_is_none(text, place, copy):
    for model in ("teacher", "model"):
        folder = copy(model)
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(text)
        assert walk(model, folder, place) == {2}


def test_pairs_for_a_model_of_single_texts(place, copy):
    """RoBERTa has one type of tokens, BERT's tokenizer gives two."""
    classifier = tiny_classifier()
    classifier.config.type_vocab_size = 1
    types = classifier.bert.embeddings.token_type_embeddings
    types.weight.data = types.weight.data[:1].clone()
    folders = {model: copy(model) for model in ("teacher", "model")}
    classifier.save_pretrained(folders["teacher"])
    students = FastBertForSequenceClassification.from_classifier(classifier, max_length=9)
    make_noisy(students.branches, 1).eval()
    students.save_pretrained(folders["model"])
    for model, folder in folders.items():
        assert walk(model, folder, place, jobs=LOADING) == {0}
        assert walk(model, folder, place, "--pair-column", "pair") == {2}


def test_as_many_tokens_as_positions(place, tmp_path):
    """Batches are padded to a multiple of 8, for which there may be no positions."""
    pq.write_table(pa.table({"text": ["a river runs " * 30, "red"]}), tmp_path / "long.parquet")
    call = ["--teacher", place / "teacher", "--corpus", tmp_path / "long.parquet"]
    call += ["--output", tmp_path / "model", "--distil-epochs", 1, "--max-length"]
    assert invoke("distill", *call, POSITIONS).exit_code == 0
    refused(invoke("distill", *call, POSITIONS + 1), f"expected 3 to {POSITIONS}")


def test_no_command_trains_over_its_teacher(place, copy):
    folder = copy("teacher")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for job, arguments in commands("teacher", folder, place, []).items():
        refused(invoke(job, *arguments, "--output", folder), "another model", "'bert'")
    weights = ["--checkpoint", "none.bin", "--vocabulary", "none.txt"]
    refused(invoke("convert", *weights, "--output", folder), "another model")
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


class Idle(InProcess):
    """Fails where anything is run."""

    closed = False

    def run(self, run, slices, resources):
        raise AssertionError("run")

    def close(self) -> None:
        self.closed = True


def test_label_refuses_before_anything_is_run_or_changed(place, copy, tmp_path):
    folder = copy("model")
    weights = load_file(folder / "model.safetensors")
    weights["branches.0.query.bias"][3] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for dry in (True, False):
        asked = settings(
            place / "corpus.parquet", tmp_path / "out", str(folder), speed=0.5, dry_run=dry
        )
        with pytest.raises(
            fastbert.InputError, match=r"not all finite: 'branches\.0\.query\.bias'"
        ):
            label(asked, idle := Idle())
        assert idle.closed or dry
    assert not [path for path in tmp_path.glob("out/**/*") if path.is_file()]


def test_label_names_of_any_configuration():
    assert FastBertConfig(id2label={0: 7, 1: 0.5}).label_names == ["7", "0.5"]
