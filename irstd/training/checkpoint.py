"""Checkpoints: folders of safetensors and JSON. Nothing is pickled.

    model.safetensors       weights and buffers
    optimizer.safetensors   the optimizer's tensors, `<parameter>.<name>`, and the averaged weights, `average.<name>`
    best.safetensors        weights of the best validation so far (what is registered)
    state.json              step, epoch, loader, random states of each rank, history, best metrics, identity
    results.csv             the history as a table
    sums.json               sha256 and size of every other file; written last

A checkpoint carries the best weights with it, so one checkpoint is enough to go on and to finish. Without `sums.json` a
folder is none: whatever ended its writing left it torn.
"""

from __future__ import annotations

import csv
import errno
import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from irstd.errors import InputError, WorkError
from irstd.files import read_json, sha256_file, write_atomic, write_json

SCHEMA = 2
SUMS = "sums.json"
SCRATCH = ".checkpoint-"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
Say = Callable[[str], None]


def write(
    folder: Path,
    model: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    average: dict[str, torch.Tensor] | None,
    best: dict[str, torch.Tensor],
    state: dict[str, Any],
) -> None:
    """Write a checkpoint into the empty folder `folder`.

    Raises: WorkError where the disk refuses, above all a full one; nothing of the checkpoint is left then.
    """
    values = optimizer.state_dict()
    tensors, plain = {}, {}
    for index, entries in values["state"].items():
        for name, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}.{name}"] = value.detach().cpu().contiguous()
            else:
                plain[f"{index}.{name}"] = value
    for name, value in (average or {}).items():
        tensors[f"average.{name}"] = value.detach().cpu().contiguous()
    groups = [{k: v for k, v in g.items() if k != "params"} for g in values["param_groups"]]
    parts = {"model": model, "best": best, "optimizer": tensors}
    need = sum(v.numel() * v.element_size() for part in parts.values() for v in part.values())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _room(folder, need)
        for name, part in parts.items():
            save_file(part, folder / f"{name}.safetensors")
        write_atomic(folder / "results.csv", table(state["history"]))
        write_json(folder / "state.json", state | {"schema": SCHEMA, "optimizer": {"groups": groups, "plain": plain}})
        seal(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise refused(folder, error, need) from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def scratch(place: Path | None) -> Iterator[Path]:
    """An empty folder, in `place` or the system's for temporary files, that goes with all in it. `WorkError` where it cannot
    be made."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=place))
    except OSError as error:
        raise refused(place or Path(tempfile.gettempdir()), error, 0) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def size(folder: Path | None) -> int:
    """Bytes of a checkpoint's files."""
    return sum(path.stat().st_size for path in folder.iterdir()) if folder and folder.is_dir() else 0


def _room(folder: Path, need: int) -> None:
    """ENOSPC before anything is written, rather than a disk that is filled to the last byte."""
    if shutil.disk_usage(folder).free < need:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def refused(folder: Path, error: BaseException, need: int) -> WorkError:
    """The line for a checkpoint that cannot be written."""
    number = error.errno if isinstance(error, OSError) else None
    if found := re.search(r"os error (\d+)", str(error)):  # the words of safetensors
        number = int(found[1])
    why = os.strerror(number) if number else str(error)
    there = folder
    while not there.exists() or there.name.startswith(SCRATCH):
        there = there.parent
    full = number in FULL
    sizes = f": needs {_mib(need)}, {_mib(shutil.disk_usage(there).free)} free" if full else ""
    remedy = "free some space" if full else "mend that"
    return WorkError(
        f"{there}: the checkpoint cannot be written ({why}{sizes}); those before it stay good: {remedy}, then the same "
        "command goes on from the last"
    )


def _mib(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"


def seal(folder: Path) -> None:
    """Flush all files of the folder to the disk and write their sums, the last step of a checkpoint."""
    sums = {}
    for path in sorted(p for p in folder.iterdir() if p.name != SUMS):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        sums[path.name] = {"sha256": sha256_file(path), "size": path.stat().st_size}
    write_json(folder / SUMS, sums)


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in a line; None where every file is as it was written."""
    try:
        sums = read_json(folder / SUMS)
        wanted = {str(name): (entry["size"], entry["sha256"]) for name, entry in sums.items()}
    except FileNotFoundError:
        return f"{SUMS} is missing: it was not written to its end" if folder.is_dir() else "it is not there"
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return f"{SUMS} cannot be read ({type(error).__name__})"
    if missing := {"state.json", "model.safetensors", "optimizer.safetensors", "best.safetensors"} - {*wanted}:
        return f"{SUMS} lacks {min(missing)}"
    for name, (size, sha256) in wanted.items():
        path = folder / name
        try:
            found = path.stat().st_size
            if found != size:
                return f"{name} is torn: {found} of {size} bytes"
            if sha256_file(path) != sha256:
                return f"{name} has other bytes than were written"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def best(folder: Path) -> Path:
    """The best weights of a run's last checkpoint; `WorkError` where the folder is not as it was written."""
    if wrong := damage(folder):
        raise WorkError(
            f"{folder}: the checkpoint of a finished run is damaged ({wrong}); remove that folder: the same command then makes "
            "it again from what is left of the run, or from the beginning"
        )
    return folder / "best.safetensors"


def pick(folders: Iterable[Path], say: Say = print) -> Path | None:
    """The first whole one of `folders`, newest first; None where there is none. Says which damaged ones it passes over."""
    passed: list[tuple[Path, str]] = []
    for folder in folders:
        wrong = damage(folder)
        if wrong is None:
            for other, why in passed:
                step = read_state(folder)["step"]
                say(f"checkpoint {other} is damaged ({why}); goes on from the one before, step {step}")
            return folder
        passed.append((folder, wrong))
    for other, why in passed:
        say(f"checkpoint {other} is damaged ({why}), and none before it is whole; starts from the beginning")
    return None


def read_state(folder: Path) -> dict[str, Any]:
    """`state.json`; `InputError` where the folder is no checkpoint of this version."""
    try:
        state = read_json(folder / "state.json")
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: no readable checkpoint ({error}); use another one") from None
    if state.get("schema") != SCHEMA:
        raise InputError(
            f"{folder}: checkpoint schema {state.get('schema')}, this version reads {SCHEMA}; start a new run"
        )
    return state


def weights(folder: Path, name: str = "best") -> dict[str, torch.Tensor]:
    """Tensors of `<name>.safetensors`; `InputError` where the file is missing or damaged."""
    path = folder / f"{name}.safetensors"
    try:
        # Copies: what comes from the file stays mapped to it, and the file goes when newer ones come.
        return {name: value.clone() for name, value in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error}); use another checkpoint") from None


def restore_optimizer(folder: Path, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Load the optimizer's state in place; returns the averaged weights ({} where there are none)."""
    saved = read_state(folder)["optimizer"]
    tensors = weights(folder, "optimizer")
    average = {k.removeprefix("average."): v for k, v in tensors.items() if k.startswith("average.")}
    entries: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *saved["plain"].items()]:
        index, _, name = key.partition(".")
        if index != "average":
            entries.setdefault(int(index), {})[name] = value
    groups = [dict(g) for g in optimizer.state_dict()["param_groups"]]
    for group, kept in zip(groups, saved["groups"], strict=True):
        group |= {k: tuple(v) if isinstance(v, list) else v for k, v in kept.items()}
    optimizer.load_state_dict({"state": entries, "param_groups": groups})
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if value.shape == parameter.shape:
                # Files hold rows; fused optimizers want the order of the parameter (channels last).
                moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    return average


def table(history: list[dict[str, Any]]) -> str:
    """The history as CSV."""
    columns = list(dict.fromkeys(k for row in history for k in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return out.getvalue()
