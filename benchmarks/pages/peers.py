"""Rows a second of the engine and of its peers, by precision, from engine.json."""

from statistics import median
from typing import Any

from benchmarks.pages.markdown import table

#: What is shown, by the names of its runs in fp32, bf16 and int8.
_SHOWN = {
    "transformers.pipeline, with tokenizing": (
        "transformers.pipeline",
        "transformers.pipeline bf16",
        None,
    ),
    "ONNX Runtime": ("ONNX Runtime fp32", None, "ONNX Runtime int8"),
    "OpenVINO": ("OpenVINO fp32", "OpenVINO bf16", "OpenVINO int8"),
    "fastbert, the whole model": ("full depth fp32", "full depth bf16", "full depth int8"),
    "fastbert with exits": ("engine fp32", "engine bf16", "engine int8"),
    "fastbert with exits, with tokenizing": (
        "engine fp32 with tokenizing",
        "engine bf16 with tokenizing",
        "engine int8 with tokenizing",
    ),
}


def rate(found: dict[str, Any], run: str) -> float:
    """Rows a second: the median of interleaved runs."""
    return found["rows"] / median(found["seconds"][run])


def peers_table(found: dict[str, Any]) -> str:
    """Medians of interleaved runs, and the share of labels that are full depth's in fp32."""

    def cell(run: str | None) -> str:
        if run is None:
            return "–"
        return f"{rate(found, run):,.0f} ({100 * found['agreement_with_full_depth'][run]:.1f} %)"

    rows = [[name, *map(cell, runs)] for name, runs in _SHOWN.items()]
    return table(["texts per second (same labels)", "fp32", "bf16", "int8"], rows)
