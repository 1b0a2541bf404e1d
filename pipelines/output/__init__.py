"""The output: ledger, lock and labelled rows."""
