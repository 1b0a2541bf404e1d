"""What several test files and benchmarks use."""

from pathlib import Path

#: Of the project.
ROOT = Path(__file__).resolve().parents[2]
