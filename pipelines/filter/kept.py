"""The folder of kept rows: it says itself which of its files are the filter's."""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from fastbert.errors import InputError, explained
from fastbert.filesystem import reaching, redacted
from fastbert.writable import check_folder
from pipelines.input.formats import ending
from pipelines.input.shards import Shard
from pipelines.output.storage import STAGING, Storage

#: Begins with a character that readers pass over.
LIST = "_kept.json"


def kept_paths(shards: Sequence[Shard], format: str) -> dict[str, str]:
    """By name of a shard, the path of its kept rows: its own, with another ending. InputError where
    two would be the same."""
    paths: dict[str, str] = {}
    taken: dict[str, str] = {}
    for shard in shards:
        url, name = shard.url, shard.name
        kind, compression = ending(url) or ("parquet", None)
        suffix = f".{kind}.{compression}" if compression else f".{kind}"
        path = f"{name.removesuffix(suffix if kind != 'parquet' else '')}.{format}"
        if (other := taken.setdefault(path, url)) != url:
            raise InputError(
                f"the rows of {redacted(other)} and {redacted(url)} would both be kept as {path}; "
                "rename one, label it, and filter again"
            )
        paths[name] = path
    return paths


class Kept:
    """The folder at a URL. Its list names what is there, or may be, so that a run that is killed
    leaves nothing that the next one does not know."""

    def __init__(self, url: str) -> None:
        """InputError for a folder of somebody else's, or that this user cannot write."""
        check_folder(url)
        self.storage = Storage(url)
        self.listed = self._listed()

    def _listed(self) -> set[str]:
        """The files that earlier runs may have kept."""
        what = f"--kept {redacted(self.storage.url)}"
        text = self.storage.read([LIST]).get(LIST)
        if text is None:
            with reaching(f"{what} cannot be listed", "pass a folder that this user may list"):
                others = self._others()
            if others:
                raise InputError(
                    f"{what} is a folder with other files, as {redacted(others[0])}; expected an "
                    "empty one, none, or one that fastbert filter has made"
                )
            return set()
        advice = "remove the folder, or pass another one"
        with explained(f"{what} has a {LIST} that cannot be read", advice, ValueError, TypeError,
                       KeyError, AttributeError):  # fmt: skip
            files = set(json.loads(text)["files"])
            if any({"", ".", ".."} & {*path.split("/")} for path in files):
                raise ValueError("it names files elsewhere")
        return files

    def _others(self) -> list[str]:
        """What is in the folder that is not hidden."""
        self.storage.fs.invalidate_cache()
        with suppress(FileNotFoundError):
            found = self.storage.fs.ls(self.storage.root, detail=False)
            names = sorted(path.rstrip("/").rpartition("/")[2] for path in found)
            return [name for name in names if name[:1] not in (".", "_", "") and name != STAGING]
        return []

    def begin(self, files: set[str], facts: dict[str, Any]) -> None:
        """Before any of these files is written."""
        self.storage.clear_staging()
        self._list(self.listed | files, facts)

    def end(self, files: set[str], facts: dict[str, Any]) -> None:
        """These files are all that is kept: what there was before goes."""
        self.storage.remove_all(sorted(self.listed - files))
        self._list(files, facts)
        if isinstance(self.storage.fs, LocalFileSystem):
            with suppress(OSError):
                os.rmdir(os.path.join(self.storage.root, STAGING))

    def _list(self, files: set[str], facts: dict[str, Any]) -> None:
        self.listed = files
        text = json.dumps({**facts, "files": sorted(files)}, indent=1, ensure_ascii=False)
        self.storage.put(LIST, text.encode())
