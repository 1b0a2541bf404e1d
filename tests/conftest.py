"""Tiny seeded models and tokenizers, made on the spot: no test downloads anything."""

import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
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

from fastbert.inference.tokens import Tokens
from fastbert.model import FastBertForSequenceClassification
from fastbert.weights import save_checkpoint

torch.set_num_threads(1)  # tiny models gain nothing from a second one

FAMILIES = ["bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert"]

#: Odd sizes, so that a swapped axis cannot pass.
VOCABULARY, HIDDEN, LAYERS, HEADS, INTERMEDIATE, POSITIONS, CLASSES = 99, 36, 3, 3, 52, 41, 5
BRANCH = 14

#: The least that a commit wants to know of a recipe.
RECIPE = {"checkpoint": "", "criterion": "entropy", "thresholds": []}

SENTENCE = "a the red blue stone river runs under old tall quiet bridge market city night bread"
WORDS = SENTENCE.split()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fuzz-minutes", type=float, default=0, help="How long test_fuzz.py goes on, in all."
    )


def pytest_report_header() -> str:
    """Which instructions the numbers in this session come from."""
    features = torch.cpu.get_capabilities()
    names = ("avx2", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    amx = bool(features.get("amx_bf16")) and limit in (None, "DEFAULT", "AVX512_CORE_AMX")
    return (
        f"processor: {', '.join(name for name in names if features.get(name)) or 'none of ours'}; "
        f"torch {torch.backends.cpu.get_cpu_capability()}, oneDNN up to {limit or 'its best'}; "
        f"AMX was {'' if amx else 'not '}run"
    )


def tiny_classifier(family: str = "bert", seed: int = 0, labels: int = CLASSES) -> PreTrainedModel:
    """A Hugging Face sequence classifier with random weights, noisy enough to disagree."""
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
    if family == "electra":
        sizes |= dict(embedding_size=22)
    config = AutoConfig.for_model(family, **sizes)
    torch.manual_seed(seed)
    return make_noisy(AutoModelForSequenceClassification.from_config(config), seed)


def tiny_fastbert(
    family: str = "bert", seed: int = 0, labels: int = CLASSES
) -> FastBertForSequenceClassification:
    """A FastBERT around a tiny classifier, whose rows leave at all layers."""
    model = FastBertForSequenceClassification.from_classifier(
        tiny_classifier(family, seed, labels), branch_size=BRANCH, max_length=POSITIONS - 9
    )
    make_noisy(model.branches, seed + 1)
    return model.eval()


def make_noisy(module: torch.nn.Module, seed: int):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.25 * noise)
    return module.eval()


def random_tokens(lengths, seed: int = 0, pairs: bool = False) -> Tokens:
    """Rows of these lengths, of ids that are not special."""
    generator = np.random.default_rng(seed)
    lengths = np.asarray(lengths, np.int64)
    total = int(lengths.sum())
    ids = generator.integers(5, VOCABULARY, total).astype(np.int32)
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


def random_texts(rows: int, seed: int = 0, longest: int = 20) -> list[str]:
    generator = np.random.default_rng(seed)
    return [
        " ".join(generator.choice(WORDS, generator.integers(1, longest + 1))) for _ in range(rows)
    ]


def write_shard(path: Path, texts: list[str | None], **columns: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"text": pa.array(texts, pa.string()), "id": range(len(texts)), **columns})
    pq.write_table(table, path, row_group_size=7)
    return path


@pytest.fixture(scope="module", autouse=True)
def no_ray_is_left() -> Iterator[None]:
    """The private Ray of a file's tests ends with them: it holds ports that others want, too."""
    yield
    if ray := sys.modules.get("ray"):
        ray.shutdown()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny FastBERT checkpoint with tokenizer, on disk."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = tiny_tokenizer(tmp_path_factory.mktemp("vocabulary"))
    model = tiny_fastbert()
    model.config.id2label = {i: name for i, name in enumerate(["ape", "bee", "cow", "dog", "eel"])}
    model.config.label2id = {name: i for i, name in model.config.id2label.items()}
    save_checkpoint(model, tokenizer, str(folder))
    return str(folder)
