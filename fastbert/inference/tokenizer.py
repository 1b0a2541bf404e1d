"""Fast token ids: WordPiece by nanotoken, all others by Hugging Face's tokenizer.

A GPU labels rows faster than a dozen cores tokenize them with Hugging Face's tokenizer. nanotoken
gives the same ids many times faster (docs/benchmarks.md). It is new, so it is optional, and checked
against Hugging Face's before use.
"""

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from fastbert.exits.windows import Windows
from fastbert.inference.tokens import Tokens, tokenize
from fastbert.inference.windows import in_windows

log = logging.getLogger(__name__)

_Lengths = NDArray[np.int64]

#: Probes: texts on which different tokenizers differ.
PROBES = (
    "",
    "The QUICK brown fox -- isn't it? -- costs $9.99 (today), e.g.\tat\r\nhttp://a.b/c?d=e_f",
    "nai\u0308ve CAF\u00c9 \u0130stanbul stra\u00dfe \u212aelvin \u03a3\u03ac\u03c2 \ufb01n \u226f",
    "\u4e2d\u6587 and \u65e5\u672c\u8a9e, \ud55c\uad6d\uc5b4\u3002 \U0001f468\u200d\U0001f469",
    "a\x00b\x0bc\x1cd\x85e\xa0f\xadg\u200bh\u2028i\u3000j\ufeffk\ufffdl",
    "before [SEP] between [CLS][MASK] [sep] after </s> <s> <mask>",
    "a" * 100 + " " + "b" * 101,
)
#: Lengths for the probes: one that truncates most of them, one that truncates none.
_PROBE_LENGTHS = (9, 512)


class Tokenizer:
    """`tokens.tokenize` for one Hugging Face tokenizer: the same tokens, faster.

    Faster if nanotoken is installed, the tokenizer is a fast one and nanotoken supports all its
    parts, as for BERT and similar families; see `fast`. The tokenizer is read once, here: later
    changes to it may be missed. Words are cached between calls, in about 160 MiB at most.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, windows: Windows | None = None) -> None:
        """With `windows`, texts are divided instead of truncated; pairs of texts are always
        truncated."""
        self.tokenizer = tokenizer
        self.windows: Windows | None = None  # until both are known to agree
        self._wordpiece: Any = None
        self._find_wordpiece()
        self.windows = windows

    def _find_wordpiece(self) -> None:
        tokenizer = self.tokenizer
        if not isinstance(tokenizer, PreTrainedTokenizerFast) or not find_spec("nanotoken"):
            return
        from nanotoken import UnsupportedTokenizerError, WordPieceTokenizer

        try:
            self._wordpiece = WordPieceTokenizer.from_json(tokenizer.backend_tokenizer.to_str())
        except UnsupportedTokenizerError as error:
            log.info("nanotoken does not support this tokenizer, using Hugging Face's: %s", error)
            return
        if not self._agrees():
            self._wordpiece = None
            log.warning(
                "nanotoken and %s differ on the probes, using Hugging Face's: expected only for "
                "unusual settings (truncation_side, split_special_tokens)",
                type(tokenizer).__name__,
            )

    @property
    def fast(self) -> bool:
        """Whether nanotoken tokenizes."""
        return self._wordpiece is not None

    def __call__(
        self, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int
    ) -> Tokens:
        """Texts, or pairs of texts, to token ids with special tokens, as `tokens.tokenize`."""
        if self.windows is not None and pairs is None:
            return in_windows(self._bare(texts), self.tokenizer, max_length, self.windows)
        specials = self.tokenizer.num_special_tokens_to_add(pair=pairs is not None)
        if self._wordpiece is None or not texts or max_length < specials:
            return tokenize(self.tokenizer, texts, pairs, max_length)
        if pairs is None:
            return self._cut(self._encode(texts, max_length=max_length + 1), max_length)
        first, second = (self._encode(side, add_special_tokens=False) for side in (texts, pairs))
        return _pair(self.tokenizer, first, second, max_length - specials)

    def _bare(self, texts: Sequence[str]) -> Tokens:
        """All tokens of the texts, none of them special."""
        if self._wordpiece is not None and texts:
            return self._encode(texts, add_special_tokens=False)
        if not texts:
            return Tokens.of([])
        return Tokens.of(self.tokenizer(list(texts), add_special_tokens=False)["input_ids"])

    def _encode(self, texts: Sequence[str], **options: Any) -> Tokens:
        # No threads: readers run in parallel, one core each.
        ids, offsets = self._wordpiece.encode_batch(texts, parallel=False, **options)
        return Tokens(ids.view(np.int32), offsets)

    def _cut(self, tokens: Tokens, max_length: int) -> Tokens:
        """One text per row, with one token more than wanted, which shows truncation."""
        truncated = tokens.lengths > max_length
        after = self.tokenizer("a").sequence_ids(0)[::-1].index(0)  # special tokens at the end
        kept = np.ones(len(tokens.ids), bool)
        kept[tokens.offsets[1:][truncated] - after - 1] = False  # the last token of the text
        offsets = tokens.offsets - np.concatenate([[0], np.cumsum(truncated)])
        return Tokens(tokens.ids[kept], offsets, None, truncated)

    def _agrees(self) -> bool:
        """Whether both give the same tokens for the probes.

        nanotoken reads only the tokenizer's backend: this detects changes by its Python class.
        """
        for pairs in (None, PROBES[::-1]):
            for max_length in _PROBE_LENGTHS:
                found = self(PROBES, pairs, max_length)
                expected = tokenize(self.tokenizer, PROBES, pairs, max_length)
                arrays = zip(vars(found).values(), vars(expected).values(), strict=True)
                if not all(np.array_equal(a, b) for a, b in arrays):
                    return False
        return True


def _pair(tokenizer: PreTrainedTokenizerBase, first: Tokens, second: Tokens, room: int) -> Tokens:
    """Row i of both texts between special tokens, at most `room` other tokens per row."""
    template = tokenizer("a", "a", return_token_type_ids=True)
    types = np.array(template["token_type_ids"], np.int8)
    sides = template.sequence_ids(0)  # of its tokens: 0, 1 or, if special, None
    a, b = sides.index(0), sides.index(1)
    after_a, after_b = (len(sides) - sides[::-1].index(side) for side in (0, 1))
    # A row is five runs of one array: specials, first text, specials, second text, specials.
    ids = np.concatenate([np.array(template["input_ids"], np.int32), first.ids, second.ids])
    types = np.concatenate([types, np.repeat(types[[a, b]], [len(first.ids), len(second.ids)])])
    starts = np.empty((len(first), 5), np.int64)
    starts[:, [0, 2, 4]] = 0, after_a, after_b
    starts[:, 1] = len(sides) + first.offsets[:-1]
    starts[:, 3] = len(sides) + len(first.ids) + second.offsets[:-1]
    lengths = np.empty_like(starts)
    lengths[:, [0, 2, 4]] = a, b - after_a, len(sides) - after_b
    lengths[:, 1], lengths[:, 3] = _longest_first(first.lengths, second.lengths, room)
    ends = np.cumsum(lengths).reshape(lengths.shape)
    index = np.arange(ends[-1, -1]) + np.repeat(starts - (ends - lengths), lengths.ravel())
    truncated = first.lengths + second.lengths > room
    return Tokens(ids[index], np.concatenate([[0], ends[:, -1]]), types[index], truncated)


def _longest_first(a: _Lengths, b: _Lengths, room: int) -> tuple[_Lengths, _Lengths]:
    """Tokens kept of each text, int64 (n,): Hugging Face's truncation strategy of this name."""
    short, long = np.minimum(a, b), np.maximum(a, b)
    # Truncate the longer one first; once both are equal, they share, and the longer one gets the
    # odd token.
    half = room // 2
    kept_short = np.minimum(short, half)
    kept_long = np.minimum(long, room - kept_short)
    return np.where(a > b, kept_long, kept_short), np.where(a > b, kept_short, kept_long)
