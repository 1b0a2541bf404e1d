"""URLs to file systems, with errors a user can act on."""

import fsspec

from fastbert.errors import InputError


def open_url(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of `url` and the path in it; InputError if there is no way to reach it."""
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise InputError(
            f"cannot open '{url}': {error}; expected a local path or a URL that fsspec knows, such "
            "as s3:// (pip install 'fastbert-ray[s3]'), gs:// ([gcs]) or abfs:// ([azure])"
        ) from error
    return fs, path
