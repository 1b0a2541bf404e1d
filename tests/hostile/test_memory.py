"""Memory of the reader."""

import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

MEMORY = """
import sys, threading, psutil, time
from pipelines.input.slices import Slice
from pipelines.labelling.read import ReadTokenize
from support.stages import a_run
from pipelines.input.shards import find_shards
from pipelines.labelling.work import Work

def watch():
    while True:
        peak[0] = max(peak[0], process.memory_info().rss)
        time.sleep(0.005)

checkpoint, folder = sys.argv[1:]
read = ReadTokenize(a_run(checkpoint))
process = psutil.Process()
base = process.memory_info().rss
peak = [base]
threading.Thread(target=watch, daemon=True).start()
for shard in find_shards([folder]):
    rows = int(shard.name.split("-")[0])
    for first in range(0, rows, 1000):
        work = read(Work(Slice(shard, rows, first, min(1000, rows - first))))
        assert work.table.num_rows == min(1000, rows - first)
    print(shard.name, (peak[0] - base) >> 20)
"""


def test_memory_is_bounded(tmp_path, checkpoint):
    """By 64 MB of text at a time, not by slice, row group or shard."""
    folder = tmp_path / "in"
    folder.mkdir()
    text = "the red river " * 75_000  # 1 MB
    table = pa.table({"text": [f"{i} {text}" for i in range(60)]})
    plain = dict(compression="zstd", use_dictionary=False)
    with pq.ParquetWriter(folder / "240-long.parquet", table.schema, **plain) as writer:
        for _ in range(4):
            writer.write_table(table)
    bomb = pa.array([text] * 300)  # 300 MB, in the file once
    pq.write_table(pa.table({"text": bomb}), folder / "300-bomb.parquet", compression="zstd")
    assert (folder / "300-bomb.parquet").stat().st_size < 1 << 20
    bomb = pa.DictionaryArray.from_arrays(pa.array([0] * 700), [text])
    pq.write_table(pa.table({"text": bomb}), folder / "700-dictionary.parquet")
    # What is fetched must not stay, either: this does not compress.
    noise = np.random.default_rng(0).integers(97, 123, (4, 50, 1_000_000), np.uint8)
    plain["compression"] = "none"
    with pq.ParquetWriter(folder / "200-noise.parquet", table.schema, **plain) as writer:
        for part in noise:
            writer.write_table(pa.table({"text": [row.tobytes().decode() for row in part]}))
    script = [sys.executable, "-c", MEMORY, checkpoint, str(folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    growth = {name: int(mb) for name, mb in (line.split() for line in done.stdout.splitlines())}
    assert len(growth) == 4
    assert max(growth.values()) < 700, growth
