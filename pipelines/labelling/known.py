"""Rows, model or machine? If rows fail, texts that every model can answer show the cause."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from fastbert.errors import MachineError
from fastbert.inference.tokenizer import Tokenizer
from fastbert.inference.tokens import Tokens
from pipelines.labelling.isolate import NOT_OF_ROWS, said

#: Texts of usual length, short, in other scripts, and longer than any model reads.
TEXTS = (
    "The delivery came a day late, and one of the two cups was broken.",
    "Why?",
    "\u041f\u043e\u0447\u0435\u043c\u0443?",
    "\u8c22\u8c22\uff0c\u4e00\u5207\u90fd\u597d\u3002",
    "Thanks! " * 2000,
)


@contextmanager
def blamed_on_machine(what: str, device: str) -> Iterator[None]:
    """Turn all errors, except FastBertErrors, into a MachineError: what, where and why."""
    try:
        yield
    except NOT_OF_ROWS:
        raise
    except BaseException as error:
        raise MachineError(
            f"{what} on {os.uname().nodename} ({device}): {said(error)}; no row is the cause: "
            "check that machine, its memory and its libraries, and run again; what is committed is "
            "kept"
        ) from error


def known_tokens(tokenize: Tokenizer, pairs: bool, max_length: int) -> Tokens:
    """The known texts, or pairs of them, tokenized; MachineError if that fails."""
    with blamed_on_machine("the tokenizer fails on known texts, too,", "cpu"):
        return tokenize(TEXTS, TEXTS[::-1] if pairs else None, max_length)
