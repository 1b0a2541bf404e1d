"""The section of docs/benchmarks.md about the formats that are read."""

from benchmarks.pages.markdown import judged, load, table, where

#: By file ending.
_NAMES = {
    "parquet": "Parquet (zstd)",
    "arrow": "Arrow",
    "jsonl": "JSON Lines",
    "jsonl.gz": "JSON Lines, gzip",
    "jsonl.zst": "JSON Lines, zstd",
    "csv": "CSV",
}


def formats_section() -> str:
    """Rows a second of one core, by format."""
    found = load("formats")
    (target,) = found["target"].values()
    rows = []
    for ending, name in _NAMES.items():
        cells = [f"{found['megabytes'][ending]:.0f}"]
        for part in ("read", "read and tokenize"):
            speed = found[part][ending]
            cells.append(f"{speed['rows_per_second']:,} ({speed['of_parquet']:.2f})")
        scanned = found["scan"][ending]["rows_per_second"]
        cells.append("by its footer" if ending == "parquet" else f"{scanned:,}")
        rows.append([name, *cells])
    gzip = found["read and tokenize"]["jsonl.gz"]["of_parquet"]
    names = ["format", "megabytes", "read", "read and tokenize", "counted, once for a new file"]
    return f"""## Formats

Rows a second of one core, and in brackets how many times Parquet's: {found["rows"]:,} rows of AG News, {found["bytes_per_text"]:.0f} bytes of text each, with an id,
a URL and two numbers beside the text. On {where(found["machine"])}.

{table(names, rows)}

Target: gzip'd JSON Lines are read and tokenized at {target} of Parquet's speed or faster: {gzip:.2f}, {judged(gzip, target)}. The rest is inflating and parsing JSON
on the same core; on the job's readers, several files are read side by side.

```
python -m benchmarks.speed.formats --data ag_news --work work --output benchmarks/results/formats.json
```
"""
