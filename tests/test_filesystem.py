"""URLs as they may be shown."""

import pytest

from fastbert.errors import InputError
from fastbert.filesystem import open_url, shown


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://bucket/a b/part-?.parquet", "s3://bucket/a b/part-?.parquet"),
        ("s3://KEY:SECRET@bucket/x", "s3://bucket/x"),
        ("https://user:pass@host:8080/x.parquet", "https://host:8080/x.parquet"),
        ("https://user:p@ss@host/x.parquet", "https://host/x.parquet"),
        ("https://host/x.parquet?X-Amz-Signature=SECRET&v=1", "https://host/x.parquet"),
        ("abfs://container@account.dfs.core.windows.net/x", None),
        ("file:///data/dt=2026-11-24/x.parquet", None),
        ("/data/caf\udce9.parquet", "/data/caf\\udce9.parquet"),
    ],
)
def test_secrets_are_not_shown(url, expected):
    assert shown(url) == (expected or url)


def test_not_in_errors_either():
    with pytest.raises(InputError) as found:
        open_url("nothing://user:SECRET@host/x?sig=SECRET")
    assert "SECRET" not in str(found.value)
