"""The labelling job and its stages, independent of the executor."""
