"""Commands. Each file is one job: `python jobs/NAME.py --help`."""
