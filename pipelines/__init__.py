"""What happens to data on disk: shards, slices, stages, commits and reports."""
