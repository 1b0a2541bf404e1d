"""Log settings for the processes of a job; importing this module changes none."""

import logging
import os
import sys


def log_to_stderr() -> None:
    """Log this project's messages with the time, and only warnings of libraries."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    for noisy in ("ray", "httpx", "httpx2", "transformers", "fsspec", "botocore", "aiobotocore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    quiet_transformers()


def quiet_transformers() -> None:
    """Errors only, and no progress bars: every worker loads a checkpoint, and `fastbert.weights`
    checks what the loading report would list."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read when it is imported
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if transformers := sys.modules.get("transformers"):
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
