"""Global random states of a process: torch's, its GPU's, numpy's and Python's.

irstd's own draws belong to key frames, not to these. A network or a loss of somebody else may use any of them, so a checkpoint
holds them all, as JSON.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def seed(number: int, rank: int, step: int = 0) -> None:
    """Begin all of them anew, elsewhere for each rank, and for each step at which a run goes on with other ranks."""
    draw = np.random.SeedSequence([number, rank, step])
    torch.manual_seed(int(draw.generate_state(1, np.uint64)[0] >> 1))  # the GPU's too
    np.random.seed(draw.generate_state(4))  # noqa: NPY002  the one that others' code draws from
    random.seed(int(draw.generate_state(2)[1]))


def states() -> dict[str, Any]:
    """All states of this process, JSON-able."""
    numpy = np.random.get_state(legacy=False)  # noqa: NPY002
    version, words, gauss = random.getstate()
    return {
        "torch": _hex(torch.get_rng_state()),
        "cuda": _hex(torch.cuda.get_rng_state()) if torch.cuda.is_available() else None,
        "numpy": {
            "key": numpy["state"]["key"].astype("<u4").tobytes().hex(),
            "pos": int(numpy["state"]["pos"]),
            "has_gauss": int(numpy["has_gauss"]),
            "gauss": float(numpy["gauss"]),
        },
        "python": {"version": version, "words": list(words), "gauss": gauss},
    }


def restore(kept: dict[str, Any]) -> None:
    """Take over what `states` gave."""
    torch.set_rng_state(_tensor(kept["torch"]))
    if kept["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(_tensor(kept["cuda"]))
    numpy = kept["numpy"]
    key = np.frombuffer(bytes.fromhex(numpy["key"]), "<u4").astype(np.uint32)
    np.random.set_state(("MT19937", key, numpy["pos"], numpy["has_gauss"], numpy["gauss"]))  # noqa: NPY002
    python = kept["python"]
    random.setstate((python["version"], tuple(python["words"]), python["gauss"]))


def _hex(state: torch.Tensor) -> str:
    return state.numpy().tobytes().hex()


def _tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
