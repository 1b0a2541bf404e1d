"""One file per architecture: what it computes over packed rows, and what that costs."""
