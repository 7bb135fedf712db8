"""What a run goes on from: weights of a registered model (`--init`), a run from before the code changed (`--resume`).

`identity.json` in a run's folder is what its name is the hash of, written when it begins, with each change of code since.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from irstd import config as configuration
from irstd.commands.show import say
from irstd.config import Config
from irstd.errors import InputError, nearest
from irstd.files import read_json, write_json
from irstd.inference import provenance
from irstd.training.identity import Identity
from irstd.training.preparation import Job
from irstd.training.record import check_whole, finished
from irstd.workspace import Workspace

RECORD = "identity.json"


def start(workspace: Workspace, config: Config, init: str | None) -> tuple[Config, dict[str, Any] | None]:
    """The configuration with `train.init` as a place of this machine, and where these weights come from.

    `init`, else `train.init`, may be a model's URI, the folder of a package, or a file of weights that nothing is known of.
    """
    given = config.train.init
    if init and given and init != given:
        raise InputError(f"--init {init} beside train.init={given}: give one of them")
    place = init or given
    if place is None:
        return config, None
    registered = place.startswith("models:")
    if not registered and not (Path(place) / "package.json").is_file():
        # The one who reads the file says what is wrong with it.
        return _init(config, place), None
    from irstd.registry import models, tracking

    with tracking.answering(workspace):
        package = models.package(workspace, place)
        version = models.resolve(workspace, place) if registered else None
    origin = provenance.started(place, package.content)
    if version is not None:
        origin["model"] = f"models:/{version.name}/{version.version}"
        say(f"starts from {origin['model']}" + (f" ({place})" if place != origin["model"] else ""))
    return _init(config, str(package.folder)), origin


def _init(config: Config, place: str) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update={"init": place})})


def begin(folder: Path, job: Job) -> dict[str, Any]:
    """Write down what the run in `folder` is, once; what its lineage says besides its identity."""
    record = _record(folder) or {"run": job.name, "content": job.identity.content, "changes": []}
    if job.origin is not None:
        record.setdefault("origin", job.origin)
    write_json(folder / RECORD, record)
    found: dict[str, Any] = {}
    if "origin" in record:
        found["init_from"] = record["origin"]
    if record["changes"]:
        # What is hashed cannot be told from the configuration of today, which may know more keys.
        found |= {"code_changes": record["changes"], "content": record["content"]}
    return found


def whole(workspace: Workspace, name: str, config: Config) -> None:
    """`InputError` where the finished run named `name` is not the one that `config` asks for (`check_whole`)."""
    folder = workspace.runs / name
    history = read_json(folder / "checkpoint" / "state.json")["history"]
    check_whole(name, config, history, [folder, f"{workspace.ray_storage}/{name}"])


def across_code(workspace: Workspace, job: Job, run: str) -> Job:
    """`job` as the run named `run`, which began with other code. `InputError` where anything but the code differs."""
    folder = workspace.runs / run
    record = _record(folder)
    if record is None:
        known = sorted(p.parent.name for p in workspace.runs.glob(f"*/{RECORD}"))
        raise InputError(f"--resume {run}: no such run here{nearest(run, known)}; irstd list runs shows them")
    if run == job.name:
        return job
    began = Identity(run, record["content"])
    _same_but_code(run, began.content, job.identity.content)
    if finished(folder) is not None:
        raise InputError(f"--resume {run}: it is finished; leave --resume out, and a run of its own is trained")
    code = job.identity.content["code"]
    last = record["changes"][-1]["code"] if record["changes"] else began.content["code"]
    if code != last:
        from irstd.cluster.storage import Storage

        kept = Storage(workspace.ray_storage, run)
        found = kept.newest(say)
        if found is None:
            raise InputError(
                f"--resume {run}: it has no whole checkpoint to go on from; leave --resume out, and it starts anew"
            )
        step = kept.step(found)
        record["changes"].append({"step": step, "code": code})
        write_json(folder / RECORD, record)
        say(
            f"run {run} began with other code ({last[:12]}, now {code[:12]}); it goes on from step {step} with that of now"
        )
    return replace(job, identity=began, known=began)


def _record(folder: Path) -> dict[str, Any] | None:
    try:
        return read_json(folder / RECORD)
    except (OSError, ValueError):
        return None


def _same_but_code(run: str, then: dict[str, Any], now: dict[str, Any]) -> None:
    """`InputError` that names the first difference. What the code of then did not know may be there, at its default."""
    other, mine, idle = _flat(then), _flat(now), _flat(_default(now))
    for key in sorted({*other, *mine}):
        new = key not in other and key in idle and mine[key] == idle[key]
        if key == "code" or new or other.get(key) == mine.get(key):
            continue
        named = {"sets": "the shards of ", "select": "evaluate."}
        top, _, rest = key.partition(".")
        what = f"{named[top]}{rest}" if top in named else "the weights to start from" if top == "init" else key
        values = f"{_short(other.get(key))} there, {_short(mine.get(key))} here"
        raise InputError(
            f"--resume {run}: {what}: {values}; only the code may differ: give the same values and data, or leave "
            "--resume out"
        )


def _default(now: dict[str, Any]) -> dict[str, Any]:
    """The content of a run of this network with every option at its default."""
    name = now["model"]["name"]
    try:
        return configuration.load(model=name).identity()
    except InputError:
        return {}


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 24 else text[:12]
