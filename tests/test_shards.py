"""Finding shards: files, folders, globs; names that never collide; versions that change."""

import os
from functools import partial

import fsspec
import pytest
from botocore.exceptions import NoCredentialsError
from fsspec.implementations.memory import MemoryFileSystem
from support.shards import write_shard

from fastbert.errors import FastBertError, InputError
from pipelines.input import listing
from pipelines.input.shards import _version, find_shards
from pipelines.output.retry import Patience


@pytest.fixture
def corpus(tmp_path):
    for name in ("dt=2026-11-22/a", "dt=2026-11-22/b", "dt=2026-11-23/a", "c"):
        write_shard(tmp_path / f"{name}.parquet", ["the red river"])
    (tmp_path / "notes.txt").write_text("not data")
    return tmp_path


def names(*urls) -> list[str]:
    return [shard.name for shard in find_shards([str(url) for url in urls])]


def test_a_folder_is_searched_recursively_and_sorted(corpus):
    assert names(corpus) == ["c", "dt=2026-11-22/a", "dt=2026-11-22/b", "dt=2026-11-23/a"]
    assert names(f"{corpus}/") == names(corpus)


def test_a_file_is_named_by_itself(corpus):
    assert names(corpus / "dt=2026-11-22" / "a.parquet") == ["a"]


def test_a_glob_is_named_from_its_fixed_part(corpus):
    assert names(corpus / "dt=*" / "a.parquet") == ["dt=2026-11-22/a", "dt=2026-11-23/a"]
    assert names(corpus / "dt=2026-11-22" / "*.parquet") == ["a", "b"]


def test_the_same_shard_twice_is_one(corpus):
    assert names(corpus, corpus / "c.parquet") == names(corpus)


def test_two_shards_of_one_name_are_refused(corpus):
    with pytest.raises(InputError, match=r"would both be labelled as 'a'.*common parent"):
        names(corpus / "dt=2026-11-22", corpus / "dt=2026-11-23")


@pytest.mark.parametrize("where", ["nowhere", "nowhere/*.parquet", "empty"])
def test_nothing_found_is_an_error(corpus, where):
    (corpus / "empty").mkdir()
    with pytest.raises(InputError, match="no Parquet, Arrow, JSON Lines or CSV at"):
        names(corpus / where)


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (PermissionError("Forbidden"), 2, "Forbidden; expected"),
        (NoCredentialsError(), 2, "Unable to locate credentials; expected"),
        (TimeoutError("no answer"), 1, r"does not answer \(TimeoutError: no answer\)"),
    ],
)
@pytest.mark.parametrize("name", ["", "a.parquet", "*.parquet"])
def test_what_a_store_says_is_one_line(error, code, says, name, monkeypatch):
    def refuse(*_, **__):
        raise error

    for call in ("info", "find", "ls", "glob", "exists", "isfile"):
        monkeypatch.setattr(MemoryFileSystem, call, refuse)
    monkeypatch.setattr(listing, "Patience", partial(Patience, 2, 0))
    with pytest.raises(FastBertError, match=f"cannot list 'memory://lost/.*{says}") as found:
        names(f"memory://lost/{name}")
    assert found.value.exit_code == code


def test_the_version_changes_with_the_content(corpus):
    (before,) = find_shards([f"{corpus}/c.parquet"])
    (same,) = find_shards([f"{corpus}/c.parquet"])
    write_shard(corpus / "c.parquet", ["the blue stone"])
    os.utime(corpus / "c.parquet", ns=(1, 1))
    (after,) = find_shards([f"{corpus}/c.parquet"])
    assert before == same
    assert before.version != after.version


def test_other_file_systems(corpus):
    memory = fsspec.filesystem("memory")
    memory.put(f"{corpus}/", "/corpus/", recursive=True)
    try:
        found = find_shards(["memory://corpus"])
        assert [shard.name for shard in found] == names(corpus)
        assert found[0].url.startswith("memory://")
        with found[0].open() as file:
            assert file.read(4) == b"PAR1"
    finally:
        memory.rm("/corpus", recursive=True)


def test_a_link_is_the_file_it_leads_to(corpus, tmp_path_factory):
    elsewhere = write_shard(tmp_path_factory.mktemp("store") / "blob.parquet", ["the red river"])
    (corpus / "linked.parquet").symlink_to(elsewhere)
    assert "linked" in names(corpus)
    (before,) = find_shards([f"{corpus}/linked.parquet"])
    write_shard(elsewhere, ["another text"])
    os.utime(elsewhere, ns=(1, 1))
    (after,) = find_shards([f"{corpus}/linked.parquet"])
    assert before.version != after.version


def test_each_folder_once_whatever_links_lead_there(tmp_path):
    """Links that make circles, repeat a folder, or lead to one around the input."""
    write_shard(tmp_path / "beside.parquet", ["not asked for"])
    for year in ("2024", "2025"):
        write_shard(tmp_path / "in" / year / "a.parquet", ["the red river"])
    for link, leads in {
        "2024/next": "../2025", "2025/prev": "../2024", "2024/first": "../2025",
        "0latest": "2025", "2025/all": "..", "2025/more": "../..",
    }.items():  # fmt: skip
        (tmp_path / "in" / link).symlink_to(leads)
    assert names(tmp_path / "in") == ["2024/a", "2025/a"]


def test_an_impossible_glob(tmp_path):
    with pytest.raises(InputError, match="can only be an entire path component"):
        find_shards([f"{tmp_path}/**x/*.parquet"])


@pytest.mark.parametrize("url", ["s4://bucket/x", "nonsense://x"])
def test_unknown_file_systems(url):
    with pytest.raises(InputError, match="expected a local path or a URL that fsspec knows"):
        find_shards([url])


#: As gcsfs describes an object.
GOOGLE = {
    "name": "bucket/x.parquet", "type": "file", "size": 9,
    "etag": "CKCo1w8QAQ==", "crc32c": "yZRlqg==",
    "md5Hash": "XrY7u+Ae7tCTyyK7j1rNww==", "generation": "17", "metageneration": "1",
    "mtime": "2026",
}  # fmt: skip


@pytest.mark.parametrize("missing", [[], ["md5Hash"], ["md5Hash", "crc32c"]])
def test_metadata_of_google_storage_are_no_new_version(missing):
    before = {key: value for key, value in GOOGLE.items() if key not in missing}
    found, formerly = _version(before)
    touched = before | {"etag": "other", "metageneration": "2", "storageClass": "NEARLINE"}
    assert _version(touched)[0] == found
    assert formerly == "etag:CKCo1w8QAQ=="  # what outputs were labelled with before
    new = before | {"md5Hash": "other", "crc32c": "other", "generation": "18"}
    assert _version({key: new[key] for key in before})[0] != found


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"ETag": '"abc-2"', "size": 1, "LastModified": "2026"}, "etag:abc-2"),  # S3
        ({"etag": "0x8D", "size": 1, "last_modified": "2026"}, "etag:0x8D"),  # Azure
        ({"mtime": 1.5, "size": 7, "created": 1.0}, "size:7 changed:1.5"),  # a local disk
    ],
)
def test_versions_of_other_stores_stay_what_they_were(info, expected):
    assert _version(info) == (expected, None)
