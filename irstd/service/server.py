"""uvicorn around the app, on one socket."""

from __future__ import annotations

import socket
from contextlib import suppress

import uvicorn
from fastapi import FastAPI

from irstd.errors import InputError
from irstd.service.limits import Limits


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one. `InputError` where it cannot be had."""
    found = None
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(128)
    except OSError as error:
        if found is not None:
            found.close()
        raise InputError(
            f"{host}:{port} cannot be listened on ({error.strerror}); give another --port or --host"
        ) from None
    return found


def serve(app: FastAPI, on: socket.socket, limits: Limits) -> None:
    """Until the process is told to end; answers that are under way are finished first."""
    config = uvicorn.Config(
        app, log_level="warning", ws="websockets-sansio", ws_max_size=limits.frame_bytes, timeout_graceful_shutdown=10
    )
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[on])
