"""The service's endpoints.

    GET  /health                    the model behind it, its hashes, and the limits
    POST /detect?bit_depth=14       a recording as the body -> all of its detections
    WS   /stream?bit_depth=14       a frame a message -> its detections, before the next one

Whatever is refused is answered with one line, {"error": "..."}, and a status of 4xx; a stream gets the line and is closed.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Query, Request, WebSocket, WebSocketDisconnect
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from irstd import __version__
from irstd.data import intensity
from irstd.data.counts import intensity_of
from irstd.errors import InputError, IrstdError, nearest
from irstd.inference import domain
from irstd.inference.detector import Detector
from irstd.inference.found import look, row
from irstd.inference.tracks import Tracks, followed
from irstd.service.limits import Limits, Refused
from irstd.service.streams import FrameStream
from irstd.service.uploads import opened

Depth = Annotated[int | None, Query(ge=1, le=16)]
Number = Annotated[float | None, Query(ge=0, le=65535)]
ASKED = {"/detect": ("bit_depth", "tracks", "name"), "/stream": ("bit_depth", "tracks", "median", "p005", "p995")}
POLICY, LATER = 1008, 1013  # codes with which a WebSocket is closed


def application(detector: Detector, model: dict[str, Any], limits: Limits | None = None) -> FastAPI:
    """The app. `model`: what /health says of it."""
    limits = limits or Limits()
    # Pages of documentation would load scripts from elsewhere.
    app = FastAPI(title="irstd", version=__version__, docs_url=None, redoc_url=None)
    busy = {"waiting": 0, "streams": 0}
    # One at a time on the model: its threads are the machine's.
    turn = asyncio.Lock()

    async def alone(work: Callable[..., Any], *arguments: Any) -> Any:
        async with turn:
            return await run_in_threadpool(work, *arguments)

    @app.get("/health")
    def health() -> dict[str, Any]:
        return {"status": "ok", "irstd": __version__, "model": model, "limits": vars(limits), **busy}

    @app.post("/detect")
    async def detect(
        request: Request, bit_depth: Depth = None, tracks: bool = False, name: str = "upload"
    ) -> dict[str, Any]:
        _only_known(request)
        if busy["waiting"] >= limits.waiting:
            raise Refused(503, f"{limits.waiting} recordings are waiting already: send it again later")
        busy["waiting"] += 1
        try:
            with tempfile.TemporaryDirectory(prefix="irstd-serve-") as folder:
                path = Path(folder) / "upload"
                await _received(request, path, limits.bytes)
                return await alone(recording, detector, path, bit_depth, tracks, name, limits)
        finally:
            busy["waiting"] -= 1

    @app.websocket("/stream")
    async def stream(
        socket: WebSocket,
        bit_depth: Depth = None,
        tracks: bool = False,
        median: Number = None,
        p005: Number = None,
        p995: Number = None,
    ) -> None:
        if not _own(socket):
            await socket.close(POLICY, "of another origin")
            return
        await socket.accept()
        if busy["streams"] >= limits.streams:
            await _refuse(socket, f"{limits.streams} streams are open already: try again later", LATER)
            return
        busy["streams"] += 1
        try:
            _only_known(socket)
            given = {"median": median, "p005": p005, "p995": p995}
            known = {key: value for key, value in given.items() if value is not None}
            if known and len(known) < 3:
                raise InputError("give all of median, p005 and p995, or none")
            one = FrameStream(detector, Tracks() if tracks else None, known or None)
            while True:
                message = await socket.receive_bytes()
                await socket.send_json(await alone(_frame, one, message, bit_depth))
        except WebSocketDisconnect:
            pass
        except KeyError:  # text where bytes are wanted
            await _refuse(socket, "send each frame as a binary message: npy, png, tiff")
        except IrstdError as error:
            await _refuse(socket, str(error))
        finally:
            busy["streams"] -= 1

    @app.exception_handler(IrstdError)
    async def refused(request: Request, error: IrstdError) -> JSONResponse:
        code = getattr(error, "code", 400 if isinstance(error, InputError) else 500)
        return _error(code, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return _error(422, f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg'][0].lower()}{first['msg'][1:]}")

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        return _error(error.status_code, f"{request.method} {request.url.path}: {str(error.detail).lower()}")

    return app


def recording(
    detector: Detector, path: Path, bit_depth: int | None, tracks: bool, name: str, limits: Limits
) -> dict[str, Any]:
    """All detections of the recording at `path`."""
    content = detector.package.content
    upload = opened(path, content, bit_depth)
    notes = domain.check(content, upload.bit_depth, upload.height, upload.width)
    statistics: dict[str, float] = {}
    if intensity.resolve(content["intensity"]["rule"], upload.bit_depth) == "sequence":
        statistics = dict(intensity_of(upload.frames))
        # Its suffix is there already.
        (found,) = path.parent.iterdir()
        upload = opened(found.rename(path), content, upload.bit_depth)
    frames = look(detector, upload.frames, upload.bit_depth, statistics)
    rows = []
    for found in followed(frames, Tracks()) if tracks else frames:
        if len(rows) == limits.frames:
            raise Refused(413, f"more than {limits.frames} frames: cut the recording, or send its frames to /stream")
        line = row(found, name)
        del line["video"]
        rows.append(line)
    return {
        "video": name,
        "frames": len(rows),
        "fps": upload.fps,
        "bit_depth": upload.bit_depth,
        "notes": notes,
        "found": rows,
    }


def _frame(one: FrameStream, message: bytes, bit_depth: int | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="irstd-serve-") as folder:
        path = Path(folder) / "upload"
        path.write_bytes(message)
        try:
            upload = opened(path, one.detector.package.content, bit_depth)
            frame_HW = next(upload.frames)
            if next(upload.frames, None) is not None:
                raise InputError("holds several frames: send one a message, or all of them to /detect")
        except InputError as error:
            raise InputError(f"frame {one.count}: {str(error).removeprefix('upload')}") from None
    return one.push(frame_HW, upload.bit_depth)


async def _received(request: Request, path: Path, most: int) -> None:
    """The body into a file, never more than `most` bytes of it."""
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said) > most:
        raise Refused(413, f"{said} bytes, at most {most} are taken: cut the recording, or send its frames to /stream")
    size = 0
    with path.open("wb") as file:
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise Refused(413, f"more than {most} bytes: cut the recording, or send its frames to /stream")
            file.write(part)


def _only_known(asked: Request | WebSocket) -> None:
    """A misspelt parameter would be left out without a word, and the answer be another than was asked for."""
    known = ASKED[asked.url.path]
    for name in asked.query_params:
        if name not in known:
            raise Refused(422, f"{name}: unknown parameter{nearest(name, known)}; known: {', '.join(known)}")


def _own(socket: WebSocket) -> bool:
    """Browsers let any page open a WebSocket to any server, and say which page it was."""
    origin = socket.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == socket.headers.get("host")


async def _refuse(socket: WebSocket, message: str, code: int = POLICY) -> None:
    await socket.send_json({"error": message})
    await socket.close(code)


def _error(code: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message.splitlines()[0] if message else "failed"}, code)
