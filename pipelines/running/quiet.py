"""What we ask of the libraries' own messages, in processes of ours; importing asks nothing."""

import os
import sys


def quiet_transformers() -> None:
    """Errors only, and no progress bars: a checkpoint is loaded in every worker, and what its
    loading report would list is checked in `fastbert.weights` anyway."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read when it is imported
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if transformers := sys.modules.get("transformers"):
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
