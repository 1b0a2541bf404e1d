"""An S3 store that is made up between its client and the network: what a million objects cost the
client can be measured without a million objects, and requests are counted."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, unquote, urlparse

from aiobotocore.awsrequest import AioAWSResponse
from aiobotocore.httpsession import AIOHTTPSession
from s3fs import S3FileSystem

BUCKET, _PAGE = "made-up", 1000
_MORE = "<NextContinuationToken>{}</NextContinuationToken>"
_OBJECT = (
    "<Contents><Key>{}</Key><LastModified>2026-11-28T02:00:00.000Z</LastModified><ETag>&quot;{:032x}"
    "&quot;</ETag><Size>{}</Size><StorageClass>STANDARD</StorageClass></Contents>"
)
_LISTED = (
    '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult '
    'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>made-up</Name><IsTruncated>{}'
    "</IsTruncated>{}{}</ListBucketResult>"
)


class _Body:
    """As aiohttp's."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    @property
    def content(self) -> "_Body":
        return self

    async def read(self, size: int = -1) -> bytes:
        data, self.data = self.data, b""
        return data

    def close(self) -> None:
        pass


@contextmanager
def store(objects: dict[str, tuple[int, Callable[[int], str], bytes]]) -> Iterator[Counter[str]]:
    """By folder of the bucket: how many objects, their names by number, and what is in each.
    Uploads and removals are taken for done. Gives how often what was asked."""
    asked = Counter[str]()

    def listed(prefix: str, start: int, flat: bool) -> tuple[str, bool]:
        count, name, data = next(
            (found for folder, found in objects.items() if flat and prefix == f"{folder}/"),
            (0, str, b""),
        )
        some = range(start, min(start + _PAGE, count))
        return "".join(_OBJECT.format(name(k), k, len(data)) for k in some), start + _PAGE < count

    async def send(self: Any, request: Any) -> AioAWSResponse:
        url = urlparse(request.url)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        key, body = unquote(url.path).partition(f"{BUCKET}/")[2], b""
        status, headers = 200, {"etag": '"0"', "last-modified": "Sat, 28 Nov 2026 02:00:00 GMT"}
        held = next((d for f, (_, _, d) in objects.items() if key.startswith(f"{f}/")), None)
        lists = request.method == "GET" and "list-type" in query
        asked["LIST" if lists else request.method] += 1
        if lists:
            start = int(query.get("continuation-token", 0))
            text, more = listed(query.get("prefix", ""), start, "delimiter" not in query)
            token = _MORE.format(start + _PAGE) if more else ""
            body = _LISTED.format(str(more).lower(), token, text).encode()
        elif request.method in ("HEAD", "GET") and held is None:
            status = 404
        elif request.method == "HEAD":
            headers["content-length"] = str(len(held))
        elif request.method == "GET":
            asks = request.headers.get("Range", "bytes=0-")
            asks = asks if isinstance(asks, str) else asks.decode()
            first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", asks).groups()
            body, status = held[int(first) : int(last or len(held)) + 1], 206
            headers["content-range"] = f"bytes {first}-{int(first) + len(body) - 1}/{len(held)}"
        headers.setdefault("content-length", str(len(body)))
        answer = AioAWSResponse(request.url, status, headers, _Body(body))
        if not request.stream_output:
            await answer.content
        return answer

    keys = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}  # fmt: skip
    with mock.patch.dict("os.environ", keys), mock.patch.object(AIOHTTPSession, "send", send):
        S3FileSystem.clear_instance_cache()  # clients keep what they were made with
        try:
            yield asked
        finally:
            S3FileSystem.clear_instance_cache()
