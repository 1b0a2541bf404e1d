"""What no one thought of: random plans, ledgers and files.

A few examples each, as a rule; `--fuzz-minutes 10` goes on for that long.
"""
