"""Reader for checkpoints of the authors' code (github.com/autoliuweijie/FastBERT, PyPI `fastbert`).

They are bare state dicts with UER's names, without labels, heads or vocabulary. Differences from
Hugging Face's BERT besides names:

* Layer normalisation divides by s + 1e-6, where s is the standard deviation with n - 1. The n - 1
  goes into the scale, and s + 1e-6 is the root of s^2 + 2e-6 s + ...: with an epsilon of 2e-6 that
  is right for s near 1, as in the layers. In embeddings s is far smaller; because scaling them
  changes nothing else, they are scaled by the root of 1 / s.
* Segments are 0 padding, 1 first, 2 second text: only 1 and 2 are used.
* A single text has no [SEP] at its end. `tokenizer_of` makes such a tokenizer.
* The keys' bias of a branch cancels in its softmax: it is dropped.
"""

import math
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertTokenizer, PreTrainedTokenizerFast

from fastbert.configuration import FastBertConfig
from fastbert.errors import InputError, explained
from fastbert.model import FastBertForSequenceClassification

Weights = dict[str, torch.Tensor]

#: Names of the parts of embeddings, here and in UER.
_EMBEDDINGS = {
    "word_embeddings": "word_embedding",
    "position_embeddings": "position_embedding",
    "token_type_embeddings": "segment_embedding",
    "LayerNorm": "layer_norm",
}
#: The same for a layer's parts.
_LAYER = {
    "attention.self.query": "self_attn.linear_layers.0",
    "attention.self.key": "self_attn.linear_layers.1",
    "attention.self.value": "self_attn.linear_layers.2",
    "attention.output.dense": "self_attn.final_linear",
    "attention.output.LayerNorm": "layer_norm_1",
    "intermediate.dense": "feed_forward.linear_1",
    "output.dense": "feed_forward.linear_2",
    "output.LayerNorm": "layer_norm_2",
}
#: The same for a branch's parts.
_BRANCH = {
    "narrow": "output_layer_0",
    "query": "self_atten.linear_layers.0",
    "key": "self_atten.linear_layers.1",
    "value": "self_atten.linear_layers.2",
    "output": "self_atten.final_linear",
    "dense": "output_layer_1",
    "classifier": "output_layer_2",
}


def read_official(path: Path) -> Weights:
    """The tensors of an official checkpoint by UER's names; runs no code in it.

    Raises InputError if it is not a state dict, or not that of a FastBERT with a BERT encoder.
    """
    what, advice = f"{path} cannot be read as a state dict", "expected the authors' .bin file"
    with explained(what, advice, OSError, RuntimeError, EOFError, pickle.UnpicklingError):
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(found, dict) or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise InputError(f"{path} holds no state dict; {advice}")
    weights = {
        re.sub(r"^(module\.)?(kernel\.)?", "", name): tensor.float()
        for name, tensor in found.items()
    }
    for name in ("encoder.transformer.0.self_attn.linear_layers.0.weight",
                 "embedding.segment_embedding.weight",
                 "classifiers.0.output_layer_2.weight"):  # fmt: skip
        if name not in weights:
            raise InputError(
                f"{path} has no '{name}': it is not a FastBERT of the authors' code with a BERT "
                f"encoder; it begins with {', '.join(list(weights)[:3])}"
            )
    return weights


def from_official(
    weights: Weights, labels: list[str] | None, heads: int | None, max_length: int
) -> FastBertForSequenceClassification:
    """The model of an official checkpoint, from `read_official`.

    `labels` are class names by index, default "0", "1", ...; `heads` of attention, by default one
    per 64 numbers of the hidden size, as in BERT. Raises InputError if they do not fit.
    """
    vocabulary, hidden = weights["embedding.word_embedding.weight"].shape
    layers = 1 + max(int(n.split(".")[2]) for n in weights if n.startswith("encoder.transformer."))
    branch, classes = weights["classifiers.0.output_layer_2.weight"].shape[::-1]
    labels = labels or [str(k) for k in range(classes)]
    if len(labels) != classes:
        raise InputError(f"{len(labels)} labels were given, the checkpoint has {classes} classes")
    heads = heads or max(1, hidden // 64)
    if hidden % heads:
        raise InputError(f"--heads is {heads}, expected a divisor of the hidden size, {hidden}")
    backbone = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=weights["encoder.transformer.0.feed_forward.linear_1.weight"].shape[0],
        max_position_embeddings=weights["embedding.position_embedding.weight"].shape[0],
        layer_norm_eps=2e-6,
    )
    config = FastBertConfig.of(backbone, labels, branch_size=branch, max_length=max_length)
    model = FastBertForSequenceClassification(config)
    renamed = _renamed(weights, model)
    words, positions, segments = (
        renamed[f"backbone.embeddings.{kind}_embeddings.weight"]
        for kind in ("word", "position", "token_type")
    )
    scale = (words + positions[0] + segments[0]).std(-1).mean() ** -0.5
    for table in (words, positions, segments):
        table *= scale
    advice = "expected one that the authors' code can load"
    with explained("the checkpoint does not fit together", advice, RuntimeError):
        model.load_state_dict(renamed)
    model.eval()
    return model


def _renamed(weights: Weights, model: FastBertForSequenceClassification) -> Weights:
    """Copies of the tensors, by the model's names."""
    names = {f"backbone.embeddings.{ours}": f"embedding.{uer}" for ours, uer in _EMBEDDINGS.items()}
    for k in range(len(model.exits)):
        for ours, uer in _LAYER.items():
            names[f"backbone.encoder.layer.{k}.{ours}"] = f"encoder.transformer.{k}.{uer}"
        for ours, uer in _BRANCH.items():
            names[f"branches.{k}.{ours}"] = f"classifiers.{k}.{uer}"
    renamed = {}
    for name in model.state_dict():
        part, _, kind = name.rpartition(".")
        if not part.endswith("LayerNorm"):
            renamed[name] = _get(weights, f"{names[part]}.{kind}").clone()
        elif kind == "bias":
            renamed[name] = _get(weights, f"{names[part]}.beta")
        else:
            gamma = _get(weights, f"{names[part]}.gamma")
            renamed[name] = gamma * math.sqrt((len(gamma) - 1) / len(gamma))
        if name.endswith("token_type_embeddings.weight"):
            renamed[name] = renamed[name][1:]
    return renamed


def _get(weights: Weights, name: str) -> torch.Tensor:
    if name not in weights:
        raise InputError(f"the checkpoint has no '{name}'; it is truncated, or of another model")
    return weights[name]


def tokenizer_of(vocabulary: Path) -> PreTrainedTokenizerFast:
    """BERT's tokenizer on a vocabulary file, with the authors' special tokens: no [SEP] at the end
    of a single text. Raises InputError if the file has none of them."""
    advice = "expected a vocabulary of BERT"
    with explained(f"{vocabulary} cannot be read", advice, OSError, UnicodeDecodeError):
        lines = vocabulary.read_text(encoding="utf-8").splitlines()
    ids = {line.strip(): k for k, line in enumerate(lines)}
    if missing := {"[PAD]", "[UNK]", "[CLS]", "[SEP]"} - ids.keys():
        raise InputError(f"{vocabulary} has no {min(missing)}; {advice}")
    backend = BertTokenizer(str(vocabulary)).backend_tokenizer
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
