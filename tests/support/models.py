"""Tiny seeded models and tokenizers, made on the spot: no test downloads anything."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
)

from fastbert.configuration import FastBertConfig
from fastbert.encoders import ENCODERS
from fastbert.exits.bag import storable
from fastbert.exits.operating_point import OperatingPoint
from fastbert.exits.question import Kind, Question
from fastbert.inference.tokens import Tokens
from fastbert.model import FastBertForSequenceClassification
from fastbert.weights import save_checkpoint
from support.shards import WORDS

torch.set_num_threads(1)  # tiny models gain nothing from a second one

#: More models of a family: with parts, or without, that not all have.
VARIANTS = {
    # Tables of distances that all layers share with contents, buckets that many lengths pass, and
    # a convolution: as of deberta-v2-xlarge.
    "deberta-v2:conv": dict(conv_kernel_size=3, conv_act="gelu", conv_groups=2),
    # Distances without buckets, with maps of their own, beside BERT's positions and types.
    "deberta-v2:own": dict(
        position_buckets=-1, max_relative_positions=7, share_att_key=False, norm_rel_ebd="none",
        position_biased_input=True, type_vocab_size=2, embedding_size=22,
    ),
    "deberta-v2:c2p": dict(pos_att_type=["c2p"]),
    "modernbert:mean": dict(
        classifier_pooling="mean", classifier_activation="relu", classifier_bias=True,
        norm_bias=True, attention_bias=True, mlp_bias=True,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
}  # fmt: skip
FAMILIES = [*ENCODERS, *VARIANTS]

#: Odd sizes, so that a swapped axis cannot pass.
VOCABULARY, HIDDEN, LAYERS, HEADS, INTERMEDIATE, POSITIONS, CLASSES = 99, 36, 3, 3, 52, 41, 5
BRANCH = 14

#: What tiny models of a family have beside that.
OF_FAMILY = {
    "electra": dict(embedding_size=22),
    # As of version 3.
    "deberta-v2": dict(
        relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=6,
        share_att_key=True, norm_rel_ebd="layer_norm", position_biased_input=False,
    ),
    # Windows of 3 to each side, around a layer in the middle or beside it.
    "modernbert": dict(
        local_attention=7, global_attn_every_n_layers=2,
        cls_token_id=2, bos_token_id=2, sep_token_id=3, eos_token_id=3,
    ),
}  # fmt: skip


def tiny_classifier(
    family: str = "bert", seed: int = 0, labels: int = CLASSES, **settings
) -> PreTrainedModel:
    """A Hugging Face sequence classifier with random weights, noisy enough to disagree, and with
    `settings` beside those of its family."""
    sizes = dict(
        vocab_size=VOCABULARY,
        max_position_embeddings=POSITIONS,
        num_labels=labels,
        pad_token_id=1 if family in ("roberta", "xlm-roberta", "camembert") else 0,
    )
    if family == "distilbert":
        sizes |= dict(dim=HIDDEN, n_layers=LAYERS, n_heads=HEADS, hidden_dim=INTERMEDIATE)
    else:
        sizes |= dict(
            hidden_size=HIDDEN,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=INTERMEDIATE,
        )
    model_type = family.partition(":")[0]
    sizes |= OF_FAMILY.get(model_type, {}) | VARIANTS.get(family, {}) | settings
    config = AutoConfig.for_model(model_type, **sizes)
    torch.manual_seed(seed)
    return make_noisy(AutoModelForSequenceClassification.from_config(config), seed)


def tiny_fastbert(
    family: str = "bert", seed: int = 0, labels: int = CLASSES, **settings
) -> FastBertForSequenceClassification:
    """A FastBERT around a tiny classifier, whose rows leave at all exits."""
    model = FastBertForSequenceClassification.from_classifier(
        tiny_classifier(family, seed, labels),
        branch_size=BRANCH,
        max_length=POSITIONS - 9,
        **settings,
    )
    make_noisy(model.branches, seed + 1)
    return model.eval()


def with_bag(model: FastBertForSequenceClassification) -> FastBertForSequenceClassification:
    """The same with an exit before the first layer, which knows every other token, and some pairs
    of those that it knows and of others."""
    tokens = torch.arange(6, VOCABULARY, 2, dtype=torch.int32)
    pairs = np.random.default_rng(0).integers(5, VOCABULARY, (4000, 2)).astype(np.int32)
    bag = model.add_bag(tokens, torch.from_numpy(storable(np.unique(pairs, axis=0))))
    make_noisy(bag, 3)
    with torch.no_grad():
        bag.numbers.weight[0] = 0  # what has no numbers
    return model.eval()


def make_noisy(module: torch.nn.Module, seed: int):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.25 * noise)
    return module.eval()


def random_tokens(lengths, seed: int = 0, pairs: bool = False, special: bool = False) -> Tokens:
    """Rows of these lengths, of ids that are not special, or, with `special`, may be."""
    generator = np.random.default_rng(seed)
    lengths = np.asarray(lengths, np.int64)
    total = int(lengths.sum())
    ids = generator.integers(0 if special else 5, VOCABULARY, total).astype(np.int32)
    if special:  # every third is, so that rows have several
        ids[::3] %= 5
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    types = generator.integers(0, 2, total).astype(np.int8) if pairs else None
    return Tokens(ids, offsets, types)


def tiny_tokenizer(folder: Path, family: str = "bert") -> PreTrainedTokenizerFast:
    """A tokenizer of at most VOCABULARY tokens that knows WORDS."""
    if family == "roberta":
        bpe = ByteLevelBPETokenizer()
        bpe.train_from_iterator([], vocab_size=1)
        # 256 bytes do not fit into VOCABULARY: keep those of the words.
        letters = sorted(set("".join(WORDS)) | {"Ġ"})
        specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        vocabulary = {token: i for i, token in enumerate(specials + letters)}
        return RobertaTokenizer(vocab=vocabulary, merges=[])
    letters = sorted(set("".join(WORDS)))
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokens += [t for t in letters + ["##" + c for c in letters] if t not in tokens]
    path = folder / "vocab.txt"
    path.write_text("\n".join(tokens))
    return BertTokenizer(str(path))


def save_tiny_models(place: Path) -> None:
    """A `teacher`, which is a backbone, too, and a checkpoint `model`, in folders of `place`."""
    tokenizer = tiny_tokenizer(place)
    tiny_classifier().save_pretrained(place / "teacher")
    tokenizer.save_pretrained(place / "teacher")
    save_checkpoint(tiny_fastbert(), tokenizer, str(place / "model"))


def save_checkpoint_of_questions(folder: Path) -> dict[str, Kind]:
    """A checkpoint that answers a question of each kind, with a default point at which rows leave
    early, in a folder; the kinds of the questions."""
    asked = [
        Question("single-label", "animal", 5),
        Question("several-labels", "tags", 3),
        Question("score", "grade", 1, centre=2.5, scale=1.7),
    ]
    names = ["ape", "bee", "cow", "dog", "eel", "x", "y", "z", "grade"]
    config = FastBertConfig.of(
        tiny_classifier().base_model.config, names, asked, branch_size=BRANCH,
        max_length=POSITIONS - 9,
    )  # fmt: skip
    torch.manual_seed(0)
    model = make_noisy(FastBertForSequenceClassification(config), 2)
    depths = list(range(1, LAYERS + 1))
    rules: dict[str, tuple[float, dict[str, Any]]] = {
        "animal": (0.85, {"criterion": "entropy"}),
        "tags": (0.99, {"criterion": "entropy"}),
        "grade": (
            0.5, {"criterion": "cutoff", "within": [2.0], "temperatures": [1.0] * (LAYERS - 1)}
        ),
    }  # fmt: skip
    points = {
        name: OperatingPoint(name, [most] * (LAYERS - 1), exit_depths=depths, **more)
        for name, (most, more) in rules.items()
    }
    point = OperatingPoint.of_questions("all", points)
    model.config.operating_points = {"all": point.settings()}
    model.config.default_operating_point = "all"
    folder.mkdir(exist_ok=True)
    save_checkpoint(model, tiny_tokenizer(folder), str(folder))
    return {each.name: each.kind for each in asked}
