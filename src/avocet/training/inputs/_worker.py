"""What runs in a worker process of `ClipLoader`: jobs come as JSON lines, arrays leave through a shared file.

Loads the media package only: PyTorch, the models and the caller's own program stay out of it.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

from avocet.errors import ConfigError
from avocet.records import Clip, ClipRef
from avocet.training.inputs._opening import Problem, one_line, open_ref, resolve_opener, write_clip


def main(control_descriptor: int, shared_descriptor: int) -> None:
    """Serve until the other end of the control socket is closed, or its process is gone."""
    sys.stdout = sys.stderr  # the caller's output is not for the chatter of libraries
    with socket.socket(fileno=control_descriptor) as control:
        lines = control.makefile("r", encoding="ascii")
        first = lines.readline()
        if not first:
            return
        settings = json.loads(first)
        jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=_receive, args=(lines, jobs), daemon=True).start()
        try:
            opener = resolve_opener(settings["opener"])
        except ConfigError as error:
            _send(control, {"unusable": str(error)})
            return
        _send(control, {"ready": True})
        while True:
            job = jobs.get()
            began = time.perf_counter()
            found = open_ref(opener, ClipRef(**job["ref"]), settings["open_arguments"])
            _send(control, {"job": job["job"], **_answer(found, shared_descriptor, began)})


def _answer(found: Clip | Problem, shared_descriptor: int, began: float) -> dict[str, Any]:
    if isinstance(found, Problem):
        return {"reason": found.reason, "error": found.error, "seconds": time.perf_counter() - began}
    try:
        clip = write_clip(found, shared_descriptor)
    except Exception as error:  # no memory for a second copy, or a clip whose fields are no JSON types
        return {"reason": "error", "error": one_line(error), "seconds": time.perf_counter() - began}
    return {"clip": clip, "seconds": time.perf_counter() - began}


def _receive(lines: Iterable[str], jobs: queue.SimpleQueue[dict[str, Any]]) -> None:
    try:
        for line in lines:
            jobs.put(json.loads(line))
    finally:
        # Nobody wants the clip any more; the main thread may be stuck in a call that never returns.
        os._exit(0)


def _send(control: socket.socket, message: dict[str, Any]) -> None:
    control.sendall(json.dumps(message).encode("ascii") + b"\n")
