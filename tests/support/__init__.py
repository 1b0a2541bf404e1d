"""What several test files and benchmarks use."""
