"""The labelled rows as a data set of Hugging Face's `datasets`, which reads and caches them."""

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pyarrow as pa

from fastbert.errors import InputError, explained
from fastbert.filesystem import redacted
from pipelines.output.storage import FOOTER_THREADS, Storage

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

#: Rows that are converted at a time.
_ROWS = 1_000


def data_set(
    storage: Storage, paths: list[str], patterns: list[str], streaming: bool
) -> "Dataset | IterableDataset":
    """The rows of these files, in their order; `patterns` match them one by one.

    See `Analytics.dataset`, which says what is raised.
    """
    try:
        from datasets import Dataset, Features, load_dataset
    except ModuleNotFoundError as error:
        if error.name != "datasets":
            raise
        raise InputError(
            "data sets of Hugging Face are made by the package datasets, which is missing; "
            "pip install 'fastbert-ray[datasets]'"
        ) from error
    what = "the output's rows are no data set of Hugging Face's"
    with explained(what, "read them with query or arrow", ValueError, TypeError):
        schema, rows = _contents(storage, paths)
        features = Features.from_arrow_schema(schema)
    if not rows and not streaming:  # what has none, it does not load
        return Dataset(features.arrow_schema.empty_table())
    return load_dataset(
        "parquet",
        data_files=patterns,
        split="train",
        streaming=streaming,
        features=features,
        batch_size=_ROWS,
    )


def _contents(storage: Storage, paths: list[str]) -> tuple[pa.Schema, int]:
    """The columns of all files, each in a type that holds the values of all, and how many rows."""
    with ThreadPoolExecutor(FOOTER_THREADS) as pool:
        footers = [*pool.map(storage.footer, paths)]
    schemas, rows = [], 0
    for path, footer in zip(paths, footers, strict=True):
        if footer is None:
            raise InputError(
                f"{redacted(path)} is gone or no Parquet; remove it, and fastbert label writes it "
                "again"
            )
        fields = [(field.name, _plain(field.type)) for field in footer.schema.to_arrow_schema()]
        schemas.append(pa.schema(fields))
        rows += footer.num_rows
    return pa.unify_schemas(schemas, promote_options="permissive"), rows


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
