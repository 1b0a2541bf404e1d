"""The jobs that make and judge checkpoints."""
