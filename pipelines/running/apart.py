"""Work in a separate process, which frees all memory, also of a GPU, when it ends."""

import os
from multiprocessing.connection import Connection
from pkgutil import resolve_name
from typing import Any

from fastbert.errors import FastBertError
from pipelines.children import SPAWN, end_with_driver
from pipelines.running.child import how
from pipelines.running.quiet import log_to_stderr


def apart(function: str, *arguments: Any) -> Any:
    """The result of a function, named "package.module:function"; raises its FastBertErrors. The
    process ends with this one."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=_serve, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    try:
        found = ours.recv()
    except EOFError as error:
        process.join()
        raise FastBertError(
            f"the process for {function.partition(':')[2]} ended ({how(process.exitcode)}); run "
            "again, with more memory if that was the reason; what is done is kept"
        ) from error
    finally:
        process.kill()
        process.join()
    if isinstance(found, FastBertError):
        raise found
    return found


def _serve(results: Connection, function: str, arguments: tuple[Any, ...]) -> None:
    end_with_driver()
    os.dup2(2, 1)  # stdout is for the summary
    log_to_stderr()
    try:
        results.send(resolve_name(function)(*arguments))
    except FastBertError as error:
        results.send(error)
