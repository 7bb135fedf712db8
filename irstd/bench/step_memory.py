"""Memory of one training step of GGL-Net, with and without activation checkpointing, in a fresh process each.

What counts is what the machine must have: the largest resident memory while two steps run (weights, gradients, the
optimizer's moments, activations, and whatever the libraries take for their own work), less what the process held before
the network was built. The second step is the usual one: the moments are there.

    python -m irstd.bench.step_memory WIDTH BATCH SIDE 0|1      # prints one line of JSON
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from irstd.errors import InputError, WorkError

STATUS = Path("/proc/self/status")


def measure(width: int, batch: int, side: int, checkpointing: bool) -> dict[str, float]:
    """{"peak": bytes}: run in a fresh process. `InputError` on a system that does not say what is resident."""
    if not STATUS.is_file():
        raise InputError(
            "the memory of a step is read from /proc/self/status, which this system has not; run it on Linux"
        )
    call = [
        sys.executable,
        "-m",
        "irstd.bench.step_memory",
        *(str(int(v)) for v in (width, batch, side, checkpointing)),
    ]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WorkError(f"the process that runs a training step failed: {done.stderr.strip().rpartition(chr(10))[2]}")
    return json.loads(done.stdout)


def step(width: int, batch: int, side: int, checkpointing: bool) -> dict[str, float]:
    """Two training steps in this process."""
    import torch

    from irstd import config as configuration
    from irstd.bench.ggl_net import training_batch
    from irstd.models import build_model
    from irstd.training.optimizer import build_optimizer

    torch.set_num_threads(1)
    options = {"model.width": width, "train.activation_checkpointing": bool(checkpointing)}
    config = configuration.load(overrides=options)
    before = resident("VmRSS")
    model = build_model(config).to(memory_format=torch.channels_last).train()
    optimizer = build_optimizer(model, config.train)
    given = training_batch(batch, side)
    for _ in range(2):
        loss, _ = model.loss(given)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return {"peak": resident("VmHWM") - before}


def resident(name: str) -> int:
    """A line of the process's status in bytes: VmRSS, resident now, or VmHWM, the most so far."""
    for line in STATUS.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise InputError(f"{STATUS} has no {name}; Linux has it")


if __name__ == "__main__":
    print(json.dumps(step(*(int(v) for v in sys.argv[1:5]))))
