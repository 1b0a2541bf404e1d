"""Whatever lies in the input: a row in is a row out, or its shard is a bad one with a reason."""
