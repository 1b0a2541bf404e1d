"""How fast texts become token ids on one core, and whether they are the tokenizer's.

Hypothesis: nanotoken gives the ids of Hugging Face's tokenizer on every row, and gives them at
least 5 times as fast as a bare call of that tokenizer, on every corpus, when only other rows of the
corpus were tokenized before.

    python -m benchmarks.speed.tokenizing --data ag_news=DIR --data imdb=DIR --data dbpedia14=DIR \\
        --output benchmarks/results/tokenizing.json

Every DIR has Parquet files with the column `text`, among them test.parquet. `steady` is the
number the hypothesis is about: the slice is of the test set and unseen, all rows but the test set's
were tokenized before, as far as the cache remembers. `cold` starts with nothing remembered, `same`
has just seen the same slice. All run from a list of str to the token ids; what they are compared
with is `bare`, the tokenizer's call, and `plain`, tokens.tokenize, that call and numpy arrays.
Slices are as long as the job's. Exactness is checked on every row of every file.
"""

import os

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}  # before the imports

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import pyarrow.parquet as pq
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from benchmarks.support.measure import interleaved, machine, ratio
from fastbert.encoders.pretrained import DEFAULT_BACKBONE, locate_backbone
from fastbert.inference.tokenizer import Tokenizer
from fastbert.inference.tokens import Tokens, tokenize
from pipelines.input.texts import decode

SLICE_ROWS = 16_384


def read(path: Path) -> list[str]:
    return decode(pq.read_table(path, columns=["text"])["text"])[0]


def different(found: Tokens, expected: Tokens) -> int:
    """Rows whose ids are not the same."""
    a, b = (np.split(tokens.ids, tokens.offsets[1:-1]) for tokens in (found, expected))
    return sum(not np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def speeds(
    plain: PreTrainedTokenizerBase, seen: list[str], texts: list[str], max_length: int, rounds: int
) -> dict[str, Any]:
    """Microseconds per row and ratios for one slice."""
    raw = [text.encode() for text in texts]
    batches: dict[str, list[str]] = {}
    fast: dict[str, Tokenizer] = {}

    def fresh() -> list[str]:
        """The texts as objects that no call has seen: a str remembers its UTF-8."""
        return [value.decode() for value in raw]

    def prepare() -> None:
        """Before each round, off the clock: every contender its state and its own strings."""
        batches.update({name: fresh() for name in contenders})
        fast.update({name: Tokenizer(plain) for name in ("cold", "steady", "same")})
        for start in range(0, len(seen), SLICE_ROWS):
            fast["steady"](seen[start : start + SLICE_ROWS], None, max_length)
        fast["same"](fresh(), None, max_length)
        plain(texts[:2000])  # what is called first after a pause must not pay for it

    def bare() -> Any:
        return plain(
            batches["bare"],
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )

    def ours(name: str) -> Callable[[], Any]:
        return lambda: fast[name](batches[name], None, max_length)

    contenders: dict[str, Callable[[], Any]] = {
        "bare": bare,
        "plain": lambda: tokenize(plain, batches["plain"], None, max_length),
        **{name: ours(name) for name in ("cold", "steady", "same")},
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(-1, rounds):
        prepare()
        for name, taken in interleaved(contenders, 1, warm_up=False).items():
            if turn >= 0:
                seconds[name] += taken
    per_row = {n: round(median(s) / len(texts) * 1e6, 2) for n, s in seconds.items()}
    ratios = {
        name: {slow: ratio(seconds, slow, name) for slow in ("bare", "plain")}
        for name in ("cold", "steady", "same")
    }
    return {"microseconds_per_row": per_row, "times_as_fast": ratios}


def exactness(plain: PreTrainedTokenizerBase, rows: list[str], max_length: int) -> int:
    """Rows of all of which the tokens differ, one tokenizer over all slices."""
    fast = Tokenizer(plain)
    slices = [rows[start : start + SLICE_ROWS] for start in range(0, len(rows), SLICE_ROWS)]
    return sum(
        different(fast(part, None, max_length), tokenize(plain, part, None, max_length))
        for part in slices
    )


@click.command()
@click.option("--data", required=True, multiple=True, metavar="NAME=DIR")
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--max-length", default=(128, 512), multiple=True, show_default=True)
@click.option("--rounds", default=3, show_default=True)
def main(data: tuple[str, ...], output: Path, max_length: tuple[int, ...], rounds: int) -> None:
    """Measure, check, write JSON; a corpus that the file already has is not measured again."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    plain = AutoTokenizer.from_pretrained(locate_backbone(DEFAULT_BACKBONE))
    assert Tokenizer(plain).fast
    here = machine("tokenizers", "nanotoken", "numpy", "pyarrow")
    print(here)
    result = json.loads(output.read_text()) if output.exists() else {}
    result |= {"machine": here, "tokenizer": DEFAULT_BACKBONE, "slice_rows": SLICE_ROWS}
    for item in data:
        name, _, folder = item.partition("=")
        files = {path.stem: read(path) for path in sorted(Path(folder).glob("*.parquet"))}
        everything = [text for rows in files.values() for text in rows]
        test = files.pop("test")[:SLICE_ROWS]
        seen = [text for rows in files.values() for text in rows]
        for length in max_length:
            found = result.setdefault(name, {}).setdefault(str(length), {})
            if found:
                continue
            found |= {"rows": len(everything), "seen_rows": len(seen), "slice": len(test)}
            found["different_rows"] = exactness(plain, everything, length)
            found |= speeds(plain, seen, test, length, rounds)
            print(name, length, found, flush=True)
            output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
