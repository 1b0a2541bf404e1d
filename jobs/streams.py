"""Standard streams of a command, in whatever state a shell, cron or a service passes them."""

import json
import os
import sys
from typing import Any, TextIO

from fastbert.errors import FastBertError


def repair_streams() -> None:
    """Open /dev/null for each of stdin, stdout and stderr that is closed. Otherwise the next opened
    file would take its descriptor, and libraries would print into it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor: this one
            os.set_inheritable(number, True)  # child processes inherit it
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8"))


def print_summary(summary: dict[str, Any], stdout: TextIO) -> None:
    """Print one line of JSON, with escapes for characters that the stream cannot encode.

    Prints nothing if the reader has closed the pipe; raises FastBertError if writing fails.
    """
    text = json.dumps(summary, ensure_ascii=False, default=str)
    try:
        text.encode(getattr(stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(summary, default=str)
    try:
        print(text, file=stdout, flush=True)
    except OSError as error:
        # Python flushes stdout again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise FastBertError(
                f"the command is done, but its summary cannot be written to stdout: {error}"
            ) from error
