"""Checkpoints: folders of safetensors and JSON. Nothing is pickled.

    model.safetensors       weights and buffers
    optimizer.safetensors   the optimizer's tensors, `<parameter>.<name>`, and the averaged weights, `average.<name>`
    best.safetensors        weights of the best validation so far (what is registered)
    state.json              step, epoch, loader, random states of each rank, history, best metrics, identity
    results.csv             the history as a table

A checkpoint carries the best weights with it, so one checkpoint is enough to go on and to finish.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from irstd.errors import InputError
from irstd.files import read_json, write_atomic, write_json

SCHEMA = 1


def write(
    folder: Path,
    model: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    average: dict[str, torch.Tensor] | None,
    best: dict[str, torch.Tensor],
    state: dict[str, Any],
) -> None:
    """Write a checkpoint into the empty folder `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model, folder / "model.safetensors")
    save_file(best, folder / "best.safetensors")
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
    save_file(tensors, folder / "optimizer.safetensors")
    write_atomic(folder / "results.csv", table(state["history"]))
    groups = [{k: v for k, v in g.items() if k != "params"} for g in values["param_groups"]]
    write_json(folder / "state.json", state | {"schema": SCHEMA, "optimizer": {"groups": groups, "plain": plain}})


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
        return load_file(path)
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
