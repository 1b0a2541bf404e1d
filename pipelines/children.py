"""Child processes, which end with the process that has started them."""

import multiprocessing
import os
import threading

#: Children are spawned, never forked: the threads of Arrow and of stores do not survive a fork.
SPAWN = multiprocessing.get_context("spawn")


def end_with_driver() -> None:
    """From now on this process ends when its driver does, however that ends: killed, it could not
    say so."""
    threading.Thread(target=_wait, daemon=True).start()


def _wait() -> None:
    driver = multiprocessing.parent_process()
    assert driver is not None
    driver.join()
    os._exit(1)
