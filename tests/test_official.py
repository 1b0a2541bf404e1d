"""Checkpoints of the authors' code: read like their code reads them, or refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.jobs import invoke, refused
from support.shards import WORDS
from support.uer import (
    HEADS,
    VOCABULARY,
    Uer,
)

from fastbert.inference.engine import Engine
from fastbert.inference.tokenizer import Tokenizer
from fastbert.tokenizer import load_tokenizer
from fastbert.weights import load_model

TEXTS = ["the red stone", "river runs under old tall quiet bridge " * 9, "city [SEP] night", "zz"]


@pytest.fixture
def uer() -> Uer:
    torch.manual_seed(3)
    return Uer()


@pytest.fixture
def vocabulary(tmp_path) -> Path:
    letters = sorted(set("".join(WORDS)))
    tokens = ["[PAD]", *(f"[unused{k}]" for k in range(40)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens += [*WORDS, *letters[1:], *(f"##{letter}" for letter in letters)]
    tokens = list(dict.fromkeys(tokens))
    tokens += [f"[spare{k}]" for k in range(VOCABULARY - len(tokens))]
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(tokens) + "\n")
    return path


def convert(weights: dict, vocabulary: Path, *options: object):
    file = vocabulary.with_name("fastbert.bin")
    torch.save(weights, file)
    output = vocabulary.with_name("model")
    arguments = ["--checkpoint", file, "--vocabulary", vocabulary, "--output", output]
    return invoke("convert", *arguments, "--heads", HEADS, "--max-length", 30, *options), output


@pytest.mark.parametrize("prefix", ["", "module.", "kernel."])
def test_logits_of_every_layer_are_theirs(uer, vocabulary, prefix):
    weights = {
        (name if prefix == "kernel." and name.startswith("classifiers") else prefix + name): values
        for name, values in uer.state_dict().items()
    }
    result, output = convert(weights, vocabulary, "--label", "x", "--label", "y", "--label", "z")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["classes"] == ["x", "y", "z"]
    tokens = Tokenizer(load_tokenizer(output))(TEXTS, None, 30)
    found = Engine(load_model(output)).exit_logits(tokens)
    tokens_of = vocabulary.read_text().split("\n").index
    for row in range(len(TEXTS)):
        ids = tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]].tolist()
        assert ids[0] == tokens_of("[CLS]")
        np.testing.assert_allclose(found[:, row], uer(ids, [1] * len(ids)), atol=2e-5)


def test_texts_are_tokenized_their_way(uer, vocabulary):
    _, output = convert(uer.state_dict(), vocabulary)
    tokens = vocabulary.read_text().split("\n")
    tokenizer = load_tokenizer(output)
    single = Tokenizer(tokenizer)(TEXTS, None, 30)
    assert [tokens[i] for i in single.ids[: single.offsets[1]]] == ["[CLS]", "the", "red", "stone"]
    assert single.lengths.tolist() == [4, 30, 4, 2]  # no [SEP] of its own
    pair = Tokenizer(tokenizer)(["the red"], ["stone"], 30)
    assert [tokens[i] for i in pair.ids] == ["[CLS]", "the", "red", "[SEP]", "stone", "[SEP]"]
    assert pair.types is not None
    assert pair.types.tolist() == [0, 0, 0, 0, 1, 1]
    found = Engine(load_model(output)).exit_logits(pair)
    expected = uer(pair.ids.tolist(), [1, 1, 1, 1, 2, 2])
    np.testing.assert_allclose(found[:, 0], expected, atol=2e-5)


def test_refusals(uer, vocabulary):
    weights = uer.state_dict()
    refused(convert({"a": torch.ones(2)}, vocabulary)[0], "not a FastBERT of the authors' code")
    refused(convert({"a": 1}, vocabulary)[0], "holds no state dict")
    some = {name: v for name, v in weights.items() if name != "classifiers.1.output_layer_1.bias"}
    refused(convert(some, vocabulary)[0], "has no 'classifiers.1.output_layer_1.bias'")
    refused(convert(weights, vocabulary, "--label", "x")[0], "1 labels were given", "3 classes")
    refused(convert(weights, vocabulary, "--heads", 5)[0], "--heads is 5", "divisor")
    refused(convert(weights, vocabulary, "--max-length", 65)[0], "--max-length is 65", "3 to 64")
    vocabulary.write_text("\n".join(vocabulary.read_text().split("\n")[:-5]))
    refused(convert(weights, vocabulary)[0], "116 tokens", "trained with 120")
    vocabulary.write_text("a\nb\n")
    refused(convert(weights, vocabulary)[0], "has no [CLS]")


class Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_no_code_of_a_checkpoint_is_run(vocabulary, tmp_path):
    result, _ = convert({"weights": Harm(tmp_path / "harm")}, vocabulary)
    refused(result, "cannot be read as a state dict")
    assert not (tmp_path / "harm").exists()
