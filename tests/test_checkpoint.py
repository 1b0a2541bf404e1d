"""Checkpoints: any file system, fingerprints, and errors that say what to do."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import random_tokens, tiny_classifier, tiny_fastbert, tiny_tokenizer, with_bag

from fastbert.checkpoint import fetch_checkpoint, fingerprint, store_operating_point
from fastbert.errors import InputError, Stopped
from fastbert.inference.engine import Engine
from fastbert.tokenizer import load_tokenizer
from fastbert.weights import load_classifier, load_model, save_checkpoint


@pytest.fixture
def copy(checkpoint, tmp_path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def test_round_trip_through_another_file_system(checkpoint, tmp_path):
    model = load_model(Path(checkpoint))
    tokenizer = load_tokenizer(Path(checkpoint))
    save_checkpoint(model, tokenizer, "memory://models/tiny")
    folder = fetch_checkpoint("memory://models/tiny")
    try:
        loaded = load_model(folder).state_dict()
        assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())
        assert fingerprint(folder) == fingerprint(Path(checkpoint))
        assert fetch_checkpoint("memory://models/tiny") == folder  # downloaded once
    finally:
        shutil.rmtree(folder)
        fsspec.filesystem("memory").rm("/models", recursive=True)


def test_fingerprint_changes_with_weights_and_tokenizer(copy):
    before = fingerprint(copy)
    config = json.loads((copy / "config.json").read_text())
    config["operating_points"] = {"fast": {"thresholds": [0.5, 0.5]}}
    (copy / "config.json").write_text(json.dumps(config))
    assert fingerprint(copy) == before  # thresholds are not the network
    config["max_length"] = 7
    (copy / "config.json").write_text(json.dumps(config))
    shorter = fingerprint(copy)
    assert shorter != before
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert fingerprint(copy) != shorter


SETTINGS = st.dictionaries(
    st.sampled_from(["use_cache", "torchscript", "pruned_heads", "dtype", "x", "größe"]),
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text() | st.lists(st.integers()),
)


@given(extra=SETTINGS, turned=st.booleans(), remote=st.booleans())
@settings(deadline=None, max_examples=40, derandomize=True)
def test_a_new_point_changes_nothing_else(checkpoint, extra, turned, remote):
    """Whatever else config.json says, and in whatever order: the nightly job compares."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(checkpoint, f"{place}/copy"))
        kept = json.loads((folder / "config.json").read_text()) | extra
        kept["operating_points"] = {"old": {"thresholds": [0.1, 0.1]}}
        items = list(kept.items())[:: -1 if turned else 1]
        (folder / "config.json").write_text(json.dumps(dict(items)))
        before = fingerprint(folder)
        if remote:
            memory = fsspec.filesystem("memory")
            memory.pipe_file("/m/config.json", (folder / "config.json").read_bytes())
            store_operating_point("memory://m", "new", {"thresholds": [0.5, 0.5]})
            (folder / "config.json").write_bytes(memory.cat_file("/m/config.json"))
        else:
            store_operating_point(str(folder), "new", {"thresholds": [0.5, 0.5]})
        now = json.loads((folder / "config.json").read_text())
        assert fingerprint(folder) == before
        assert not list(folder.glob("*.partial"))
        assert now.pop("default_operating_point") == "new"
        assert now.pop("operating_points") == kept["operating_points"] | {
            "new": {"thresholds": [0.5, 0.5]}
        }
        kept = {key: value for key, value in kept.items() if not key.endswith("point")}
        assert now == {key: value for key, value in kept.items() if key != "operating_points"}


def test_a_point_that_cannot_be_stored_is_one_line(copy, monkeypatch):
    def denied(*_):
        raise PermissionError("Permission denied")

    monkeypatch.setattr("os.replace", denied)
    with pytest.raises(InputError, match=f"cannot store .* in '{copy}': Permission denied; make"):
        store_operating_point(str(copy), "new", {"thresholds": [0.5, 0.5]})


def test_a_save_that_dies_leaves_no_checkpoint_of_two(copy, monkeypatch):
    """New weights beside the old configuration would label, and wrongly."""
    tokenizer, replace, done = load_tokenizer(copy), os.replace, []

    def die(source, target):
        replace(source, target)
        if target == str(copy / "model.safetensors"):
            done.append(target)
            raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", die)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tiny_fastbert(seed=5), tokenizer, str(copy))
    assert done
    with pytest.raises(InputError, match="no checkpoint"):
        fetch_checkpoint(str(copy))
    monkeypatch.undo()
    save_checkpoint(tiny_fastbert(seed=5), tokenizer, str(copy))
    load_model(fetch_checkpoint(str(copy)))


def test_a_model_that_is_loaded_stays_what_it_is_when_its_checkpoint_is_saved_anew(copy):
    """Its weights are read from the file as they are needed."""
    model, tokens = load_model(copy), random_tokens([9, 3, 20])
    before = Engine(model).exit_logits(tokens)
    larger = tiny_fastbert(seed=5)
    save_checkpoint(with_bag(larger), load_tokenizer(copy), str(copy))
    assert np.array_equal(Engine(model).exit_logits(tokens), before)


def test_fingerprint_does_not_depend_on_the_folder(copy, checkpoint):
    assert fingerprint(copy) == fingerprint(Path(checkpoint))


def test_no_checkpoint(tmp_path):
    with pytest.raises(InputError, match=r"no checkpoint at .*expected a directory"):
        fetch_checkpoint(str(tmp_path / "nothing"))


def test_a_checkpoint_that_is_replaced_during_a_run(copy, checkpoint):
    expected = fingerprint(copy)
    assert fetch_checkpoint(str(copy), expected) == copy
    save_checkpoint(tiny_fastbert(seed=5), load_tokenizer(copy), str(copy))
    with pytest.raises(InputError, match=r"has changed since the run began.*--relabel"):
        fetch_checkpoint(str(copy), expected)


def test_a_checkpoint_of_links(copy, tmp_path):
    """As the hub's cache has them."""
    links = tmp_path / "snapshot"
    links.mkdir()
    for path in copy.iterdir():
        (links / path.name).symlink_to(path)
    assert fingerprint(fetch_checkpoint(str(links))) == fingerprint(copy)


def test_a_run_that_is_stopped_while_it_loads_is_not_a_bad_checkpoint(copy, monkeypatch):
    def stopped(*_, **__):
        raise Stopped("stopped")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", stopped)
    with pytest.raises(Stopped, match="^stopped$"):
        load_tokenizer(copy)


def test_not_a_fastbert(tmp_path):
    tiny_classifier().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"model_type 'bert', expected.*fastbert distill"):
        load_model(tmp_path)


def test_truncated_weights(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot be read"):
        load_model(copy)


def test_missing_weights(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no .safetensors weights"):
        load_model(copy)


def test_weights_that_do_not_fit(copy):
    config = json.loads((copy / "config.json").read_text())
    config["backbone"]["num_hidden_layers"] = 4
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="do not fit its config.json"):
        load_model(copy)


def test_pickled_weights_are_never_loaded(copy):
    (copy / "model.safetensors").unlink()
    torch.save(tiny_fastbert().state_dict(), copy / "pytorch_model.bin")
    with pytest.raises(InputError, match="no .safetensors weights"):
        load_model(copy)


def test_load_classifier_refuses_what_is_none(tmp_path, checkpoint):
    with pytest.raises(InputError, match="cannot load the classifier"):
        load_classifier(str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="is already a FastBERT checkpoint"):
        load_classifier(checkpoint)


def test_load_classifier(tmp_path):
    tiny_classifier().save_pretrained(tmp_path)
    tiny_tokenizer(tmp_path).save_pretrained(tmp_path)
    model, tokenizer = load_classifier(str(tmp_path))
    assert model.config.model_type == "bert"
    assert tokenizer("the red river")["input_ids"]
