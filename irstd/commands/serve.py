"""`irstd serve`: a model behind HTTP on this machine."""

from __future__ import annotations

from irstd.commands.show import say
from irstd.errors import InputError
from irstd.workspace import Workspace

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def run(workspace: Workspace, uri: str, host: str, port: int, device: str, megabytes: int) -> None:
    """Load the model, then answer until the process is ended."""
    from irstd.commands.detection import where
    from irstd.inference.detector import Detector
    from irstd.registry import models, tracking
    from irstd.service.app import application
    from irstd.service.limits import Limits
    from irstd.service.server import listening, serve

    if not 0 <= port < 65536:
        raise InputError(f"--port {port}: give 0 (a free one) to 65535")
    place = where(device)
    with tracking.answering(workspace):
        package = models.package(workspace, uri)
        version = models.resolve(workspace, uri) if uri.startswith("models:/") else None
    content = package.content
    model = {
        "uri": uri,
        "name": version.name if version else package.config.registered_name,
        "version": str(version.version) if version else None,
        "package_sha256": package.sha256,
        "files": package.files,
        "task": package.config.model.task,
        "frames": package.config.model.frames,
        "threshold": content["threshold"],
        "intensity": content["intensity"]["rule"],
        "bit_depth": content["bit_depth"],
        "device": place,
    }
    limits = Limits(bytes=megabytes << 20)
    app = application(Detector(package, place), model, limits)
    on = listening(host, port)
    address = f"[{host}]" if ":" in host else host
    if host not in LOOPBACK:
        say(f"serve: warning: {host} is reached from other machines, and the service asks nobody who they are")
    say(f"serve: {uri} on http://{address}:{on.getsockname()[1]} (/health, /detect, /stream); Ctrl-C ends it")
    serve(app, on, limits)
