"""A small corpus of all formats, and which of its rows are to be kept."""

import csv
import gzip
import io
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from support.formats import ENCODED
from support.shards import random_texts

from pipelines.filter.job import filter_rows
from pipelines.settings import FilterSettings

#: Files of the input, with so many rows: slices are of 10.
FILES = {"dt=1/a.parquet": 33, "dt=1/b.jsonl.gz": 27, "dt=2/part=y/c.csv": 31, "d.jsonl": 20,
         "e.arrow": 9, "dt=3/none.parquet": 0}  # fmt: skip


def rows_of(seed: int, rows: int) -> list[dict]:
    texts: list = random_texts(rows, seed)
    return [
        {"text": text, "id": k, "Score": k / 4, "name": f"n{k % 5}"} for k, text in enumerate(texts)
    ]


def write_corpus(folder: Path) -> None:
    for seed, (name, rows) in enumerate(FILES.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        found = rows_of(seed, rows)
        for place in range(0, rows, 8):
            found[place]["text"] = "" if name.endswith("csv") or place % 16 else None
        if ".jsonl" in name:  # lines that Arrow alone would not give back
            lines = [json.dumps(row, ensure_ascii=False).encode() for row in found]
            lines[3] = (
                b'  {"id": 3, "text": "the red river", "x": {"y": [1, 2.50, null]}, "z": 1E2 } \r'
            )
            lines[4] = '{"text": "blue caf\u00e9 \\ud800", "id": 4, "only here": [{}]}'.encode()
            lines[5] = b'{"text": "a stone", "id": "five", "id": 5}'
            lines[6] = b"{}"
            lines[7] = b'{"text": "broken'
            data = b"\n\n".join(lines)
            path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
            continue
        table = pa.Table.from_pylist(found, None if rows else pa.schema([("text", pa.string())]))
        path.write_bytes(ENCODED[f"x.{name.rpartition('.')[2]}"](table))


def keep(root: Path, where: str = "true", **changes) -> dict:
    asked = {"input": (str(root / "in"),), "output": str(root / "out"), "where": where,
             "kept": str(root / "kept"), "json": True}  # fmt: skip
    return filter_rows(FilterSettings(**asked | changes))


def inputs(root: Path) -> dict[str, list]:
    """The slow truth: the rows of each file, or, of JSON Lines, its lines."""
    found: dict[str, list] = {}
    for name in FILES:
        data = (root / "in" / name).read_bytes()
        if name.endswith(".parquet"):
            found[name] = pq.read_table(io.BytesIO(data)).to_pylist()
        elif name.endswith(".arrow"):
            found[name] = pa.ipc.open_file(data).read_all().to_pylist()
        elif name.endswith(".csv"):
            cells = csv.DictReader(io.StringIO(data.decode(), newline=""))
            found[name] = [
                row | {"id": int(row["id"]), "Score": float(row["Score"])} for row in cells
            ]
        else:
            lines = (gzip.decompress(data) if name.endswith("gz") else data).split(b"\n")
            found[name] = [line for line in lines if line.strip()]
    return found


def answers(root: Path) -> pd.DataFrame:
    """The labelled rows with file and row."""
    frames = []
    for path in (root / "out" / "table").rglob("*.parquet"):
        name, first, _ = str(path.relative_to(root / "out" / "table")).rsplit(".", 2)
        frame = pq.read_table(path, partitioning=None).to_pandas()
        frame["file"] = name if (root / "in" / name).exists() else f"{name}.parquet"
        frame["row"] = range(int(first), int(first) + len(frame))
        frames.append(frame)
    found = pd.concat(frames, ignore_index=True)
    found["dt"] = found["file"].str.extract(r"dt=(\d)").astype(float)
    return found


WHERE = {
    "true": lambda f: f["row"] >= 0,
    "score > 0.25 and exit_layer >= 2": lambda f: (f["score"] > 0.25) & (f["exit_layer"] >= 2),
    "label <> 'ape'": lambda f: f["label"].notna() & (f["label"] != "ape"),
    "error is not null or dt = 2": lambda f: f["error"].notna() | (f["dt"] == 2),
    "dt is null and id % 3 = 0": lambda f: f["dt"].isna() & (f["id"] % 3 == 0),
    'input_Score >= 2 -- the input\'s "score"': lambda f: f["input_Score"] >= 2,
    "\"NAME\" in ('n1', 'n2')": lambda f: f["name"].isin(["n1", "n2"]),
    "label = 'nothing'": lambda f: f["row"] < 0,
    "part = 'y'": lambda f: f["file"].str.contains("part=y"),
}


def expected(root: Path, where: str) -> dict[str, list]:
    """By file, what is to be kept: input and answers merged by file and row."""
    found = inputs(root)
    sides = pd.DataFrame(
        [(name, row, value) for name, rows in found.items() for row, value in enumerate(rows)],
        columns=["file", "row", "value"],
    )
    merged = sides.merge(answers(root), on=["file", "row"], validate="one_to_one")
    assert len(merged) == sum(FILES.values())
    some = merged[WHERE[where](merged)].sort_values("row")
    return {name: list(part["value"]) for name, part in some.groupby("file")}


def without_nulls(row: dict) -> dict:
    """Columns that only other files of text have are null."""
    return {name: value for name, value in row.items() if value is not None}


def stem(name: str) -> str:
    return name.partition(".")[0]


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
