"""`fastbert filter`: the rows of the input whose labels satisfy a condition, and no others."""
