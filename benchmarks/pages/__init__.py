"""docs/results.md, docs/benchmarks.md and README's results, from what benchmarks/results holds."""
