"""`fastbert filter` as a script."""

from jobs.options import command

if __name__ == "__main__":
    command("filter")()
