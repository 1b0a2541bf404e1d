"""Every job that README and docs show is run as it stands there, on a small corpus."""

import random
import re
import shlex
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support import uer
from support.jobs import invoke
from support.models import HIDDEN, VOCABULARY, tiny_tokenizer
from transformers import AutoConfig, AutoModelForSequenceClassification

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo"))
from corpus import ticket

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.integration

#: In the order in which one makes what the next one needs.
PAGES = [
    ROOT / "docs" / "start.md",
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("calibration", "analytics", "formats")),
    *(ROOT / "docs" / f"{name}.md" for name in ("operations", "migration")),
    *(ROOT / "docs" / f"{name}.md" for name in ("classifiers", "long-texts", "index")),
]
SIZES = dict(vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=3, num_attention_heads=3)


def redacted(page: Path) -> list[list[str]]:
    """The jobs of a page as words; what is submitted to a cluster is `test_submit.py`'s."""
    text = page.read_text().replace("\\\n", " ")
    blocks = re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)
    lines = [line for language, block in blocks for line in block.splitlines() if not language]
    return [
        shlex.split(line, comments=True)
        for line in lines
        if re.match(r"(\.venv/bin/)?fastbert ", line)
    ]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder that has what the commands name."""
    root = tmp_path_factory.mktemp("world")
    source = random.Random(1)
    for name, rows in (("train", 256), ("dev", 64), ("docs", 700), ("sample", 300), ("test", 64)):
        write(root / "corpus" / name / "0.parquet", [ticket(source) for _ in range(rows)])
    for name, rows in (("labelled", 256), ("articles", 700)):
        write(root / f"{name}.parquet", [ticket(source) for _ in range(rows)], "article", "topic")
    long = [(" ".join([text] * 9), label) for text, label in map(ticket, [source] * 64)]
    write(root / "reviews.parquet", long)
    (root / "corpus" / "labels").symlink_to(root / "labels")  # pages have the table there
    teacher = root / "my-org" / "roberta-topics"
    topics = AutoConfig.for_model("roberta", **SIZES, max_position_embeddings=514, num_labels=4)
    AutoModelForSequenceClassification.from_config(topics).save_pretrained(teacher)
    tiny_tokenizer(root, "roberta").save_pretrained(teacher)
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = [*specials, *(f"[unused{k}]" for k in range(uer.VOCABULARY - len(specials)))]
    (root / "google_zh_vocab.txt").write_text("\n".join(tokens) + "\n")
    torch.manual_seed(3)
    official = uer.Uer()
    official.embedding["position_embedding"] = torch.nn.Embedding(512, HIDDEN)
    torch.save(official.state_dict(), root / "fastbert.bin")
    return root


def write(
    path: Path, rows: list[tuple[str, str]], text: str = "text", label: str = "label"
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    texts, labels = zip(*rows, strict=True)
    table = pa.table({text: texts, label: labels, "id": range(len(rows))})
    pq.write_table(table, path)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.parent.name + "/" + path.stem)
def test_commands(page, world, monkeypatch):
    monkeypatch.chdir(world)
    monkeypatch.setattr("fastbert.training.recipes._MOST_EPOCHS", 3.0)  # else minutes
    commands = redacted(page)
    assert commands, "the page shows no job"
    for _, job, *arguments in commands:
        here = [argument.replace("s3://", "") for argument in arguments]
        result = invoke(job, *here)
        assert result.exit_code == 0, f"{job} {here}\n{result.output[-3000:]}"


def test_all_pages_with_jobs_are_run():
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/*.md")]
    generated = {"results.md", "benchmarks.md", "commands.md"}
    assert {page for page in pages if redacted(page) and page.name not in generated} == set(PAGES)
