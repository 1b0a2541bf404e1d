"""The rows of the input whose labels satisfy a condition."""
