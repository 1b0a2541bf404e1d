"""The exported table: at every moment the rows of `table/`, and none of them twice."""
