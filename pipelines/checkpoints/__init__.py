"""The jobs that make and evaluate checkpoints."""
