"""`fastbert COMMAND`: all commands under one name."""

import click

import fastbert
from jobs.commands import COMMANDS
from jobs.options import command

main = click.Group(
    commands=[command(name) for name in COMMANDS],
    help="Label corpora with BERT-like classifiers whose rows leave at the first layer that is "
    "sure enough. Each command has its own --help.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
click.version_option(fastbert.__version__, prog_name="fastbert")(main)

if __name__ == "__main__":
    main(prog_name="fastbert")
