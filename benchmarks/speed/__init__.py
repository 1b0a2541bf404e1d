"""How fast it is, and what it holds in memory: engine, job, tokenizing, reports."""
