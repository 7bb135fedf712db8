"""Where a run computes: no part of its identity, and what equal bits are promised for."""

from __future__ import annotations

from typing import Any

import torch


def here(device: torch.device, workers: int) -> dict[str, Any]:
    """{"workers", "device", "threads" of each, "instructions"} of this process, as JSON can hold it.

    Sums of floats depend on all of them: on how a batch is shared out, on the chip, and on how a CPU's kernels are cut.
    """
    if device.type == "cuda":
        return {"workers": workers, "device": torch.cuda.get_device_name(device)}
    return {
        "workers": workers,
        "device": device.type,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
