"""Programs behind docs/results.md and docs/benchmarks.md, and their results.

They run as modules, from the project's root: `python -m benchmarks.speed.engine --help`.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: JSON of all programs.
RESULTS = ROOT / "benchmarks" / "results"

# Helpers of the tests (`support`), and the demo's `corpus`.
sys.path += [str(ROOT / "tests"), str(ROOT / "demo")]
