"""What a command reads from and writes to, whatever the shell, cron or a service has made of it."""

import json
import os
import sys
from typing import Any, TextIO

from fastbert.errors import FastBertError


def repair_streams() -> None:
    """Put /dev/null where stdin, stdout or stderr are closed: the next file that is opened would
    take their place, and get what libraries print."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            os.set_inheritable(number, True)  # child processes have the same ones
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8"))


def print_summary(summary: dict[str, Any], stdout: TextIO) -> None:
    """One line of JSON, escaped as far as the stream's encoding demands it.

    Nothing where nobody reads it any more; FastBertError where it cannot be written.
    """
    text = json.dumps(summary, ensure_ascii=False, default=str)
    try:
        text.encode(getattr(stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(summary, default=str)
    try:
        print(text, file=stdout, flush=True)
    except OSError as error:
        # Python flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise FastBertError(
                f"all is done, except that its summary cannot be written to stdout: {error}"
            ) from error
