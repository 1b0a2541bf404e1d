"""What is loaded is what was saved: teachers, backbones and checkpoints alike."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.models import (
    FAMILIES,
    POSITIONS,
    VOCABULARY,
    tiny_classifier,
    tiny_fastbert,
    tiny_tokenizer,
)
from transformers import AutoModelForMaskedLM, pipeline

from fastbert.checkpoint import fingerprint
from fastbert.configuration import check_distinct
from fastbert.encoders.pretrained import load_backbone
from fastbert.errors import InputError
from fastbert.model import FastBertForSequenceClassification
from fastbert.tokenizer import check_room, check_tokenizer, load_tokenizer
from fastbert.training.examples import Examples
from fastbert.training.length import fitting_length
from fastbert.weights import (
    check_output,
    load_checkpoint,
    load_classifier,
    load_model,
    save_checkpoint,
)

LOADERS = {
    "teacher": lambda folder: load_classifier(str(folder))[0],
    "backbone": lambda folder: load_backbone(str(folder)),
    "checkpoint": load_model,
}
#: A tensor that each of them needs.
NEEDED = {
    "teacher": "classifier.bias",
    "backbone": "bert.encoder.layer.1.output.dense.weight",
    "checkpoint": "branches.0.key.weight",
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    tiny_tokenizer(tmp_path_factory.mktemp("words")).save_pretrained(folder)
    tiny_classifier().save_pretrained(folder)
    return folder


@pytest.fixture(params=LOADERS)
def saved(request, teacher, checkpoint, tmp_path):
    """A copy of a model, its loader, and a tensor that it needs."""
    source = checkpoint if request.param == "checkpoint" else teacher
    folder = Path(shutil.copytree(source, tmp_path / "copy"))
    return folder, LOADERS[request.param], NEEDED[request.param]


def change(folder: Path, how) -> None:
    """The weights as `how` leaves their dict."""
    weights = load_file(folder / "model.safetensors")
    weights = how(weights) or weights
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def refused(call, *parts: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tensor_is_missing(saved):
    folder, load, needed = saved
    change(folder, lambda weights: {k: v for k, v in weights.items() if k != needed})
    refused(lambda: load(folder), "is missing", needed.removeprefix("bert."))


def test_no_name_is_right(saved):
    """As DataParallel saves them."""
    folder, load, _ = saved
    change(folder, lambda weights: {f"module.{k}": v for k, v in weights.items()})
    refused(lambda: load(folder), "is missing", "more do not fit")


def test_a_layer_too_many(saved):
    folder, load, _ = saved

    def add(weights):
        name = next(name for name in weights if ".layer.2." in name)
        weights[name.replace(".layer.2.", ".layer.3.")] = weights[name].clone()

    change(folder, add)
    refused(lambda: load(folder), ".layer.3.", "is not part of this model")


def test_another_shape(saved):
    folder, load, needed = saved
    change(folder, lambda weights: weights.update({needed: weights[needed][1:].clone()}))
    refused(lambda: load(folder), "has the shape", "expected")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none(saved, value):
    folder, load, needed = saved
    change(folder, lambda weights: weights[needed].view(-1)[-1:].fill_(value) and None)
    refused(lambda: load(folder), "not all finite", needed.removeprefix("bert."))


def test_zeros_only(saved):
    """As a copy that was not written to its end. RoBERTa's only type of tokens may be zero."""
    folder, load, needed = saved
    needed = needed.replace("classifier.bias", "classifier.weight")
    types = next(n for n in load_file(folder / "model.safetensors") if "token_type" in n)
    change(folder, lambda weights: weights.update({types: 0 * weights[types]}))
    load(folder)
    change(folder, lambda weights: weights.update({needed: 0 * weights[needed]}))
    refused(lambda: load(folder), "holds only zeros", needed.removeprefix("bert."))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_pointer_of_git_lfs(saved, name):
    folder, load, _ = saved
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 133466304\n"
    (folder / name).write_text(text)
    refused(lambda: load(folder), "" if name == "config.json" else "git lfs pull")


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "fp8"])
def test_a_quantised_model(teacher, tmp_path, method):
    folder = Path(shutil.copytree(teacher, tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method}
    (folder / "config.json").write_text(json.dumps(config))
    for kind in ("teacher", "backbone"):
        refused(lambda: LOADERS[kind](folder), f"is quantised ({method})", "original model")  # noqa: B023


@pytest.mark.parametrize(
    ("place", "said"),
    [("{0}/nope", "no such folder"), ("{0}/a", "no such folder"), ("{0}", "no config.json"),
     ("file://{0}", "no such folder"), ("./nope/model", "no such folder")],
)  # fmt: skip
def test_where_no_model_is(tmp_path, place, said):
    (tmp_path / "a").write_text("{}")
    for load in (load_classifier, load_backbone):
        refused(lambda: load(place.format(tmp_path)), said, "pass a")  # noqa: B023


@pytest.mark.parametrize("kind", [torch.int8, torch.float8_e4m3fn])
def test_weights_that_were_quantised(saved, kind):
    """Read as they stand, without their scales, they are other weights."""
    folder, load, needed = saved
    change(folder, lambda weights: weights.update({needed: weights[needed].to(kind)}))
    refused(lambda: load(folder), needed, "expected F64, F32, F16, BF16")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precisions_are_read(saved, kind):
    folder, load, needed = saved
    change(folder, lambda weights: {k: v.to(kind) for k, v in weights.items()})
    expected = load_file(folder / "model.safetensors")[needed].float()
    assert any(torch.equal(value, expected) for value in load(folder).state_dict().values())


def test_a_damaged_file(saved):
    folder, load, _ = saved
    data = (folder / "model.safetensors").read_bytes()
    for damaged in (data[:-5], data[:20], b"", b"x" * 99):
        (folder / "model.safetensors").write_bytes(damaged)
        refused(lambda: load(folder), "the weights in", "cannot be read")


@pytest.mark.parametrize("whole", [True, False])
def test_weights_in_several_files(saved, whole):
    folder, load, needed = saved
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    parts = {"a.safetensors": [needed], "b.safetensors": [n for n in weights if n != needed]}
    for file, names in parts.items():
        save_file({n: weights[n] for n in names}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {n: f for f, names in parts.items() for n in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    if whole:
        load(folder)
    else:
        (folder / "a.safetensors").unlink()
        refused(lambda: load(folder), "cannot be read", "a.safetensors")


@pytest.mark.parametrize("load", ["teacher", "backbone"])
def test_pickled_weights_are_refused_with_what_converts_them(teacher, tmp_path, load):
    folder = Path(shutil.copytree(teacher, tmp_path / "copy"))
    expected = LOADERS[load](folder).state_dict()
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="are .bin files, expected safetensors") as caught:
        LOADERS[load](folder)
    _, command, rest = str(caught.value).split('"')
    exec(command)
    found = LOADERS[load](Path(rest.removeprefix(", and pass "))).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    (folder / "pytorch_model.bin").unlink()
    refused(lambda: LOADERS[load](folder), "cannot be read")  # and says nothing of such files


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_in_several_files(family, tmp_path):
    """As large classifiers are published."""
    classifier = tiny_classifier(family).half()
    classifier.save_pretrained(tmp_path, max_shard_size="20KB")
    tiny_tokenizer(tmp_path).save_pretrained(tmp_path)
    assert len([*tmp_path.glob("*.safetensors")]) > 2
    found = load_classifier(str(tmp_path))[0].state_dict()
    for name, value in classifier.float().state_dict().items():
        assert torch.equal(found[name], value)
        assert found[name].dtype == torch.float32


def test_an_adapter_lies_beside(saved):
    folder, load, _ = saved
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    refused(lambda: load(folder), "adapter_config.json", "merge")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pretrained_model_is_a_backbone_and_no_classifier(family, tmp_path):
    """Its head is another one, and left out."""
    model = AutoModelForMaskedLM.from_config(tiny_classifier(family).config)
    model.save_pretrained(tmp_path)
    # As Microsoft calls what it pre-trains with.
    more = {f"{head}_predictions.dense.weight": torch.ones(2) for head in ("lm", "mask")}
    change(tmp_path, lambda weights: weights.update(more))
    expected = load_file(tmp_path / "model.safetensors")
    for name, value in load_backbone(str(tmp_path)).state_dict().items():
        assert torch.equal(value, expected[f"{model.base_model_prefix}.{name}"])
    refused(lambda: load_classifier(str(tmp_path)), "is missing")


def test_what_nobody_reads_may_lie_in_the_file(tmp_path):
    """Old releases of transformers saved the positions, and RoBERTa's pooler, which is not used."""
    tiny_classifier("roberta").save_pretrained(tmp_path)
    tiny_tokenizer(tmp_path, "roberta").save_pretrained(tmp_path)
    idle = {
        "roberta.embeddings.position_ids": torch.arange(POSITIONS)[None],
        "roberta.pooler.dense.bias": torch.ones(36),
    }
    change(tmp_path, lambda weights: weights.update(idle))
    load_classifier(str(tmp_path))
    load_backbone(str(tmp_path))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_tokenizer(family, tmp_path):
    """Hugging Face makes one without words then, with which every text is the same."""
    if family in ("bert", "roberta"):  # of which its settings were copied
        tiny_tokenizer(tmp_path, family).save_pretrained(tmp_path)
        for path in tmp_path.iterdir():
            if path.name not in ("tokenizer_config.json", "special_tokens_map.json"):
                path.unlink()
    tiny_classifier(family).save_pretrained(tmp_path)
    refused(lambda: load_tokenizer(tmp_path), "no tokenizer in", "save it beside the weights")
    refused(lambda: load_classifier(str(tmp_path)), "no tokenizer in")


def test_a_tokenizer_that_is_a_model_of_sentencepiece_alone(tmp_path):
    """As DeBERTa's authors publish theirs."""
    tiny_classifier("deberta-v2").save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "spm.model").write_bytes(b"x" * 99)
    wanted = [] if find_spec("sentencepiece") else ["pip install sentencepiece"]
    refused(lambda: load_tokenizer(tmp_path), "no tokenizer in", *wanted)


def test_a_tokenizer_without_a_limit(teacher, tmp_path):
    folder = Path(shutil.copytree(teacher, tmp_path / "copy"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["model_max_length"] = 1e30
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    _, tokenizer = load_classifier(str(folder))
    texts = Examples(["a river runs " * 99, "red"])
    assert fitting_length(tokenizer, texts, POSITIONS) == (POSITIONS, 0.5)


def test_classes_without_names(teacher, tmp_path):
    """Are called as Hugging Face calls them, if there are as many as it counts."""
    folder = Path(shutil.copytree(teacher, tmp_path / "copy"))
    for names in (None, {str(k): f"LABEL_{k}" for k in range(5)}, {str(k): k for k in range(5)}):
        config = json.loads((folder / "config.json").read_text())
        config |= {"id2label": names, "label2id": None, "num_labels": 5}
        (folder / "config.json").write_text(
            json.dumps({key: value for key, value in config.items() if value is not None})
        )
        classifier, tokenizer = load_classifier(str(folder))
        ours = FastBertForSequenceClassification.from_classifier(classifier).eval()
        theirs = pipeline("text-classification", str(folder), device="cpu")
        for text in ("a river runs", "red stone"):
            logits = ours(**tokenizer(text, return_tensors="pt")).logits
            expected = theirs(text)[0]["label"]
            assert ours.config.label_names[int(logits.argmax())] == str(expected)


def test_a_tokenizer_with_more_tokens_than_the_model(teacher):
    tokenizer, config = load_tokenizer(teacher), tiny_classifier().config
    new = [f"new{k}" for k in range(VOCABULARY - len(tokenizer))]
    tokenizer.add_tokens(new)
    check_tokenizer(tokenizer, config)
    tokenizer.add_tokens(["covid"])
    refused(lambda: check_tokenizer(tokenizer, config), "'covid'", f"{VOCABULARY} embeddings")


def test_a_tokenizer_with_far_fewer_is_told(teacher, caplog):
    config = tiny_classifier().config
    tokenizer = load_tokenizer(teacher)
    check_tokenizer(tokenizer, config)
    assert not caplog.records
    config.vocab_size = 10 * VOCABULARY
    check_tokenizer(tokenizer, config)
    assert "is it the model's own?" in caplog.text


def test_pairs_need_a_second_type(teacher):
    tokenizer, config = load_tokenizer(teacher), tiny_classifier().config
    check_tokenizer(tokenizer, config, pairs=True)
    config.type_vocab_size = 1
    check_tokenizer(tokenizer, config)
    refused(lambda: check_tokenizer(tokenizer, config, pairs=True), "type 1", "1 type;")
    check_tokenizer(tokenizer, tiny_classifier("distilbert").config, pairs=True)  # it reads none


def test_training_needs_a_padding_token(teacher):
    tokenizer, config = load_tokenizer(teacher), tiny_classifier().config
    tokenizer.pad_token = None
    check_tokenizer(tokenizer, config)
    refused(lambda: check_tokenizer(tokenizer, config, trained=True), "no padding token")


def test_rows_are_padded_behind(teacher, tmp_path):
    """Heads read the first token."""
    folder = Path(shutil.copytree(teacher, tmp_path / "copy"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"padding_side": "left"}))
    assert load_tokenizer(folder).padding_side == "right"


@pytest.mark.parametrize("place", ["{0}", "{0}/", "file://{0}", "{0}/../{1}", "link"])
def test_no_other_model_is_overwritten(teacher, checkpoint, tmp_path, place, monkeypatch):
    folder = Path(shutil.copytree(teacher, tmp_path / "teacher"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(folder)
    refused(lambda: check_output(place.format(folder, folder.name)), "another model", "'bert'")
    check_output(str(tmp_path / "new"))
    check_output(str(tmp_path))
    check_output(checkpoint)


@pytest.mark.parametrize("name", ["config.json", "adapter_config.json"])
def test_what_may_be_a_model_is_not_overwritten(name, tmp_path):
    for text in ("", "[]", "{}"):
        (tmp_path / name).write_text(text)
        refused(lambda: check_output(str(tmp_path)), name)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "mine.safetensors", "vocab.txt", "tokenizer.json"]
)
def test_files_of_others_are_not_lost(name, tmp_path):
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "vocabularies").mkdir()
    check_output(str(tmp_path))
    (tmp_path / name).write_text("")
    refused(lambda: check_output(str(tmp_path)), name, "would be lost")


def test_nowhere_is_no_output():
    refused(lambda: check_output(""), "a path is empty")


@pytest.mark.parametrize(("pairs", "least"), [(False, 3), (True, 5)])
def test_there_is_room_for_texts(teacher, pairs, least):
    tokenizer = load_tokenizer(teacher)
    check_room(tokenizer, least, pairs)
    refused(lambda: check_room(tokenizer, least - 1, pairs), "no room", f"at least {least}")


def test_an_error_is_one_line():
    refused(lambda: check_distinct(["a\nb", "c", "a\nb"]), "'a b'")


def test_nothing_of_an_old_checkpoint_is_read_with_the_new(checkpoint, tmp_path):
    folder = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    for name in ("vocab.txt", "added_tokens.json", "special_tokens_map.json", "old.safetensors"):
        (folder / name).write_text("{}")
    (folder / "NOTES.md").write_text("kept")
    before = fingerprint(Path(checkpoint))
    model, tokenizer = load_checkpoint(Path(checkpoint))
    save_checkpoint(model, tokenizer, str(folder))
    assert fingerprint(folder) == before
    names = {path.name for path in folder.iterdir()} - {"NOTES.md"}
    assert names == {path.name for path in Path(checkpoint).iterdir()}
    assert (folder / "NOTES.md").read_text() == "kept"


def test_a_checkpoint_is_loaded_without_a_second_copy(tmp_path):
    """Its weights stay in the page cache, which replicas share."""
    save_checkpoint(tiny_fastbert(), tiny_tokenizer(tmp_path), str(tmp_path / "model"))
    path = (tmp_path / "model" / "model.safetensors").resolve()
    model = load_model(tmp_path / "model")
    at = next(model.parameters()).data_ptr()
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    mine = [line[0].split("-") for line in maps if line[-1] == str(path)]
    assert any(int(start, 16) <= at < int(end, 16) for start, end in mine)
