"""Code that runs in a forked child, which is how multiprocessing begins one on Linux up to 3.13."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")

_HANGS_S = 30


def in_forked_child(work: Callable[[], Any]) -> Any:
    """Return what the work returns there, which has to be a JSON value; fail if it does not."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Since Python 3.12: there are other threads, as there are in a profile.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(_HANGS_S)
            os.write(writing, json.dumps(work()).encode())
        except BaseException:  # noqa: BLE001 - here the tests end
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    assert said, "The child failed, or hung."
    return json.loads(said)


@contextlib.contextmanager
def held_by_another_thread(lock: Any) -> Iterator[None]:
    """Meanwhile a thread that a child does not have holds the lock."""
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        yield
    finally:
        done.set()
        thread.join()
