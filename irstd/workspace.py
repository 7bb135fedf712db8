"""The workspace: where things lie, and the settings of this machine.

The workspace is the nearest folder at or above the working directory that holds `data.dvc`. What the program writes lies
in its `data/` and `shards/`, in DVC's cache, or under IRSTD_HOME (default `.irstd/` in the workspace).
`settings.toml` says *where* things run (addresses, ports, workers); it never decides *what* a run computes.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import tomllib
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from irstd import environment
from irstd.errors import InputError, nearest
from irstd.files import read_json

# Every setting with its default; None means "embedded": a SQLite file, a local Ray.
SETTINGS: dict[str, dict[str, Any]] = {
    "mlflow": {"uri": None, "system_metrics": True, "gallery": True},
    "ray": {"address": None, "storage": None},
    "prefect": {"api": None},
    "stack": {"prefect_port": 4200, "mlflow_port": 5000, "ray_port": 6379, "ray_dashboard_port": 8265},
    "resources": {"workers": None, "shard_workers": None},
}


@dataclass(frozen=True)
class Workspace:
    """Paths and settings. `root` and `home` are absolute."""

    root: Path
    home: Path
    settings: dict[str, dict[str, Any]] = field(default_factory=lambda: {k: dict(v) for k, v in SETTINGS.items()})

    @classmethod
    def find(cls, start: Path | None = None) -> Workspace:
        """The workspace of the working directory (or of `start`); `InputError` where there is none."""
        here = (start or Path.cwd()).resolve()
        for folder in (here, *here.parents):
            if (folder / "data.dvc").is_file():
                home = Path(os.environ.get("IRSTD_HOME") or folder / ".irstd")
                return cls(folder, (folder / home).resolve(), _settings(folder / "settings.toml"))
        raise InputError(f"no workspace at or above {here}: change to a folder that holds data.dvc (a clone of irstd)")

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def shards(self) -> Path:
        return self.root / "shards"

    def shards_at(self, place: str | Path | None) -> str | Path:
        """What `--shards` names, a folder or a URL, or the workspace's own. `InputError` where it cannot hold sets of shards."""
        return place if isinstance(place, str) and "://" in place else self.shards_in(place)

    def shards_in(self, place: str | Path | None) -> Path:
        """As `shards_at`, where only a folder will do."""
        if place is None:
            return self.shards
        if isinstance(place, str) and "://" in place:
            raise InputError(
                f"--shards {place}: this command reads the tars themselves; copy them to a folder, and name it"
            )
        given = Path(place)
        if not given.is_dir():
            raise InputError(
                f"--shards {given}: no shards here, no such folder; build them with irstd shard --data DATA --out {given}"
            )
        manifest: Any = {}
        with suppress(OSError, ValueError):  # who reads the shards says so
            manifest = read_json(given / "manifest.json")
        if isinstance(manifest, dict) and "sequences" in manifest:
            above = given.resolve().parent
            raise InputError(f"--shards {given}: is the folder of one set; give the one above it, {above}")
        return given

    @property
    def runs(self) -> Path:
        """Run folders: one a run, named by the run's identity."""
        return self.home / "runs"

    @property
    def ray_storage(self) -> str:
        """Where Ray keeps checkpoints: a local folder, or a shared one that every node reaches."""
        place = self.settings["ray"]["storage"] or str(self.home / "ray")
        return place if "://" in place else str((self.root / place).resolve())

    @property
    def ray_session(self) -> Path:
        """Ray's session folder. Outside the workspace: its socket paths end at 107 bytes."""
        short = hashlib.sha256(str(self.home).encode()).hexdigest()[:8]
        return Path(tempfile.gettempdir()) / f"irstd-{os.getuid()}-{short}"

    @property
    def stack_file(self) -> Path:
        """What `irstd up` started: addresses and process ids."""
        return self.home / "stack.json"

    @cached_property
    def stack(self) -> dict[str, Any]:
        """The record of the running stack, or {} where none runs (a record whose processes are gone counts as none)."""
        try:
            record = read_json(self.stack_file)
        except (OSError, ValueError):
            return {}
        alive = all(environment.running(s["pid"], s["created"]) for s in record.get("services", {}).values())
        return record if alive and record.get("services") else {}

    @property
    def mlflow_database(self) -> Path:
        return self.home / "mlflow" / "mlflow.db"

    @property
    def mlflow_uri(self) -> str:
        """Tracking and registry address: settings, else the running stack's server, else the embedded database."""
        return (
            self.settings["mlflow"]["uri"]
            or os.environ.get("IRSTD_MLFLOW_URI")
            or self.stack.get("mlflow")
            or f"sqlite:///{self.mlflow_database}"
        )

    @property
    def ray_address(self) -> str | None:
        """The Ray to join: settings, else the running stack's; None starts a local one. Never found by `auto`."""
        return self.settings["ray"]["address"] or self.stack.get("ray")

    @property
    def shard_workers(self) -> int:
        """Processes that build shards: `--workers` (which reaches the stage as a variable), else settings, else the cores."""
        given = os.environ.get("IRSTD_SHARD_WORKERS") or self.settings["resources"]["shard_workers"]
        if given is None:
            return environment.cores()
        if not str(given).isdecimal() or int(given) < 1:
            raise InputError(f"settings.toml: resources.shard_workers={given!r}: give a whole number from 1 on")
        return int(given)

    @property
    def prefect_api(self) -> str:
        return self.settings["prefect"]["api"] or self.stack.get("prefect_api", "")

    def environment(self, threads: int | None = None) -> dict[str, str]:
        """Variables for this workspace's processes (see `irstd.environment`)."""
        found = environment.variables(self.home, self.mlflow_uri, self.prefect_api, threads)
        if not self.settings["ray"]["address"]:
            # Else Ray replaces 127.0.0.1 by the machine's outer address and listens on every interface.
            found["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        return found

    def enter(self) -> Workspace:
        """Prepare this process for the workspace: variables, home folder, Ray's token, and where networks are imported from."""
        self.home.mkdir(parents=True, exist_ok=True)
        environment.ensure_ray_token(self.home)
        environment.apply(self.environment())
        # At the end: nothing that is installed is hidden by a file that lies about.
        for folder in (str(Path.cwd()), str(self.root)):
            if folder not in sys.path:
                sys.path.append(folder)
        return self

    def relative(self, path: Path) -> str:
        """`path` as one shows it: relative to the workspace where it lies inside."""
        try:
            return str(path.resolve().relative_to(self.root))
        except ValueError:
            return str(path)


def _settings(path: Path) -> dict[str, dict[str, Any]]:
    found = {section: dict(values) for section, values in SETTINGS.items()}
    if not path.is_file():
        return found
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} is not TOML: {error}") from None
    for section, values in given.items():
        if section not in found or not isinstance(values, dict):
            raise InputError(f"{path.name}: unknown section [{section}]{nearest(section, found)}")
        for key, value in values.items():
            if key not in found[section]:
                raise InputError(f"{path.name}: unknown setting {section}.{key}{nearest(key, found[section])}")
            if isinstance(SETTINGS[section][key], bool) and not isinstance(value, bool):
                raise InputError(f"{path.name}: {section}.{key}={value!r}: write true or false")
            found[section][key] = value
    return found
