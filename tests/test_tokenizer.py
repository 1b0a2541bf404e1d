"""The fast tokenizer's tokens are the plain one's, whatever the text."""

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import tiny_tokenizer
from support.shards import WORDS, random_texts
from tokenizers import AddedToken, models
from tokenizers import Tokenizer as Backend
from tokenizers.processors import BertProcessing, RobertaProcessing
from transformers import BertTokenizer, PreTrainedTokenizerFast

from fastbert.inference import tokenizer as module
from fastbert.inference.tokenizer import Tokenizer
from fastbert.inference.tokens import Tokens, tokenize

SPACES = [chr(c) for c in range(0x3001) if chr(c).isspace()]
CONTROLS = [chr(c) for c in (*range(0x20), *range(0x7F, 0xA0), 0xAD, 0x200B, 0x200D, 0xFEFF)]
CONTROLS += ["\ufffd", "\ue000", "\u0378", "\ufffe", "\U000e0001"]
LETTERS = [
    *"abcdeABCDEéÉñüÜßẞİıKΣσςøŁæǅﬁ",
    "e\u0301",
    "I\u0307",
    "\u0301",
    "a\u0307\u0323",
    "\u1e9b",
]
PUNCTUATION = [*"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", *"¡«»—’“…、。؟", "\u226f", "\u037e", "\u1fef"]
OTHERS = [*"中文日本かカ한", "\U00020000", "\uf900", "😀", "👩\u200d👧", "1️⃣", "🇩🇪"]
SPECIALS = ["[SEP]", "[CLS]", "[UNK]", "[PAD]", "[MASK]", "[sep]", "[SEP", "##a", "<User>"]
LONG = [c * n for c in "aé中" for n in (99, 100, 101, 300)]

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "The", "RED"]
VOCABULARY += [c for c in dict.fromkeys("abcdeABCDEéßikσøłæ中日😀—’.,-[]!#<>'") if c not in WORDS]
VOCABULARY += ["##" + c for c in "abcdeABCDEéßikσøłæ中" + "\u0301"]

texts = st.lists(
    st.sampled_from(WORDS)
    | st.sampled_from(WORDS).map(str.upper)
    | st.just(" ")
    | st.sampled_from([*SPACES, *CONTROLS, *LETTERS, *PUNCTUATION, *OTHERS, *SPECIALS, *LONG])
    | st.characters(exclude_categories=["Cs"]),
    max_size=30,
).map("".join)
VARIANTS = {
    "uncased": {},
    "cased": {"do_lower_case": False},
    "cased, no accents": {"do_lower_case": False, "strip_accents": True},
    "uncased, accents": {"strip_accents": False},
    "uncased, no Chinese": {"tokenize_chinese_chars": False},
}


def bert(folder, **options) -> BertTokenizer:
    path = folder / "vocab.txt"
    path.write_text("\n".join(VOCABULARY))
    return BertTokenizer(str(path), **options)


@pytest.fixture(scope="module")
def fast(tmp_path_factory) -> dict[str, Tokenizer]:
    """One warm tokenizer of each kind."""
    folder = tmp_path_factory.mktemp("vocabulary")
    found = {name: Tokenizer(bert(folder, **options)) for name, options in VARIANTS.items()}
    found["added tokens"] = Tokenizer(bert(folder))
    found["added tokens"].tokenizer.add_tokens(
        ["red blue", AddedToken("<User>", lstrip=True), AddedToken("stone", single_word=True)]
    )
    found["added tokens"] = Tokenizer(found["added tokens"].tokenizer)
    # Templates of other families: no types, and two specials between the texts.
    for name, template in (("BERT's", BertProcessing), ("RoBERTa's", RobertaProcessing)):
        tokenizer = bert(folder)
        tokenizer.backend_tokenizer.post_processor = template(("[SEP]", 3), ("[CLS]", 2))
        found[name] = Tokenizer(tokenizer)
    assert all(tokenizer.fast for tokenizer in found.values())
    return found


def assert_same(found: Tokens, expected: Tokens):
    for name in ("offsets", "ids", "types"):
        a, b = getattr(found, name), getattr(expected, name)
        assert (a is None) == (b is None)
        if a is not None:
            assert a.dtype == b.dtype
            assert a.tolist() == b.tolist(), name


KINDS = [*VARIANTS, "added tokens", "BERT's", "RoBERTa's"]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(rows=st.lists(texts, max_size=4), max_length=st.integers(2, 60))
def test_any_text_gives_the_plain_tokenizers_tokens(fast, kind, rows, max_length):
    plain = tokenize(fast[kind].tokenizer, rows, None, max_length)
    assert_same(fast[kind](rows, None, max_length), plain)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(rows=st.lists(st.tuples(texts, texts), max_size=4), max_length=st.integers(4, 60))
def test_any_pair_gives_the_plain_tokenizers_tokens(fast, kind, rows, max_length):
    first, second = [a for a, _ in rows], [b for _, b in rows]
    plain = tokenize(fast[kind].tokenizer, first, second, max_length)
    assert_same(fast[kind](first, second, max_length), plain)


@pytest.mark.parametrize("max_length", range(3, 14))
def test_pairs_are_cut_longest_first(fast, max_length):
    lengths = [(a, b) for a in range(9) for b in range(9)]
    first, second = (["red " * pair[side] for pair in lengths] for side in (0, 1))
    plain = tokenize(fast["uncased"].tokenizer, first, second, max_length)
    assert_same(fast["uncased"](first, second, max_length), plain)


@pytest.mark.parametrize("character", SPACES + CONTROLS)
def test_white_space_is_the_tokenizers_not_pythons(fast, character):
    rows = [f"red{character}blue", f"{character}red", f"red {character} blue{character}"]
    for tokenizer in fast.values():
        assert_same(tokenizer(rows, None, 32), tokenize(tokenizer.tokenizer, rows, None, 32))


def test_no_room_for_special_tokens_is_left_to_the_plain_tokenizer(fast):
    plain = tokenize(fast["uncased"].tokenizer, ["red blue stone"], None, 1)
    assert_same(fast["uncased"](["red blue stone"], None, 1), plain)


def test_a_warm_tokenizer_gives_what_a_cold_one_gives(tmp_path):
    warm = Tokenizer(bert(tmp_path))
    slices = [random_texts(50, seed) + ["Réd, BLUE!", "x" * 99] for seed in range(4)]
    cold = [Tokenizer(bert(tmp_path))(rows, None, 11) for rows in slices]
    for _ in range(2):
        for rows, expected in zip(slices, cold, strict=True):
            assert_same(warm(rows, None, 11), expected)


def test_words_remembered_are_bounded(tmp_path):
    """Millions of words that are never seen again do not stay in memory."""
    tokenizer, process, grown = Tokenizer(bert(tmp_path)), psutil.Process(), []
    tokenizer(random_texts(10), None, 32)
    before = process.memory_info().rss
    for turn in range(20):
        words = [f"{number:08x}é" for number in range(turn << 17, (turn + 1) << 17)]
        tokenizer([" ".join(words)], None, 32)
        grown.append((process.memory_info().rss - before) >> 20)
    assert grown[-1] < 400, grown
    assert grown[-1] - grown[-5] < 24, grown


@pytest.mark.parametrize(("piece", "tokens"), [("the RED, ", 30), ("a", 1), ("中", 30), ("é", 1)])
def test_ten_megabytes_are_cut_to_their_first_tokens(fast, piece, tokens):
    text = piece * (10_000_000 // len(piece.encode()))
    found = fast["uncased"]([text, "red"], None, 32)
    assert found.lengths.tolist() == [tokens + 2, 3]
    head = tokenize(fast["uncased"].tokenizer, [text[:900]], None, 32)
    assert found.ids[: tokens + 2].tolist() == head.ids.tolist()


def unigram() -> PreTrainedTokenizerFast:
    pieces = [("<unk>", 0.0), *((word, -1.0) for word in WORDS), (" ", -2.0)]
    backend = Backend(models.Unigram(pieces, unk_id=0))
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def python_only(folder) -> BertTokenizer:
    """Its class changes what its backend gives, as nanotoken cannot see."""

    class Reversed(BertTokenizer):
        def __call__(self, text, *rest, **options):
            return super().__call__([t[::-1] for t in text], *rest, **options)

    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    return Reversed(str(folder / "vocab.txt"))


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: tiny_tokenizer(folder, "roberta"),
        lambda folder: unigram(),
        lambda folder: bert(folder, truncation_side="left"),
        lambda folder: bert(folder, split_special_tokens=True),
        python_only,
    ],
    ids=["byte-level BPE", "unigram", "cut on the left", "specials are text", "Python"],
)
def test_others_are_tokenized_by_hugging_face(tmp_path, make):
    plain = make(tmp_path)
    tokenizer = Tokenizer(plain)
    assert not tokenizer.fast
    rows = [*random_texts(5), "red [SEP] blue"]
    assert_same(tokenizer(rows, None, 9), tokenize(plain, rows, None, 9))


@pytest.mark.parametrize("pairs", [False, True], ids=["texts", "pairs"])
@pytest.mark.parametrize(
    "make",
    [bert, lambda folder: bert(folder, truncation_side="left"), python_only],
    ids=["nanotoken", "Hugging Face", "Python"],
)
def test_texts_that_are_cut_are_known(tmp_path, make, pairs):
    tokenizer = Tokenizer(make(tmp_path))
    first = ["red " * n for n in range(9)]
    second = first[::-1] if pairs else None
    whole = tokenizer.tokenizer(first, second)["input_ids"]
    for max_length in (6, 7, 8, 13):
        found = tokenizer(first, second, max_length)
        assert found.truncated.tolist() == [len(ids) > max_length for ids in whole]
        assert found.take(np.array([8, 0])).truncated.tolist() == found.truncated[[8, 0]].tolist()


def test_a_disagreement_is_noticed(tmp_path, monkeypatch, caplog):
    """Control: were nanotoken wrong about any one probe, it would not be used."""
    plain = bert(tmp_path)
    assert Tokenizer(plain).fast
    encode = Tokenizer._encode

    def wrong(self, rows, **options):
        found = encode(self, rows, **options)
        return Tokens(np.where(np.arange(len(found.ids)) == 40, 1, found.ids), found.offsets)

    monkeypatch.setattr(module.Tokenizer, "_encode", wrong)
    assert not Tokenizer(plain).fast
    assert "differ on the probes" in caplog.text
