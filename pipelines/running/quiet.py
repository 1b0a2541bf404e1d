"""What is asked of messages, ours and of libraries, in processes of ours; importing asks none."""

import logging
import os
import sys


def log_to_stderr() -> None:
    """What the project says, with the time, and of libraries only what went wrong."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    for noisy in ("ray", "httpx", "httpx2", "transformers", "fsspec", "botocore", "aiobotocore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    quiet_transformers()


def quiet_transformers() -> None:
    """Errors only, and no progress bars: a checkpoint is loaded in every worker, and what its
    loading report would list is checked in `fastbert.weights` anyway."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read when it is imported
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if transformers := sys.modules.get("transformers"):
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
