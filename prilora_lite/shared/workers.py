"""Worker processes that end with the process that started them, and leave nothing behind."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from tqdm import tqdm

_LOOK = 1.0  # seconds from one look at the parent to the next


def in_worker(work: Callable[..., Any], parent: int, *args: Any) -> Any:
    """Do some work in a worker, which ends once its parent was killed: nobody would get what it makes.

    Args:
        work: called with ``args``.
        parent: the process that started the worker; if it is another's child, it is let be.
    """
    if os.getppid() == parent:
        _end_with(parent)
        tqdm.set_lock(threading.RLock())  # not one for several processes, which a worker that is killed leaves behind
    return work(*args)


@lru_cache(maxsize=1)
def _end_with(parent: int) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
