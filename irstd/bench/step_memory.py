"""Memory and time of training steps of GGL-Net, with and without activation checkpointing, in a fresh process each.

What counts is what the machine must have: "step" is the largest resident memory while the steps run (gradients, the
optimizer's moments, activations, and whatever the libraries take for their own work), less what the process held with
the network loaded and the batch at hand; "process" is the largest of the process from its start, Python and PyTorch
included. The first step makes the moments; the time is that of the others.

    python -m irstd.bench.step_memory WIDTH BATCH SIDE 0|1      # prints one line of JSON
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from irstd.errors import InputError, WorkError

STATUS = Path("/proc/self/status")
TIMED = 2


def measure(width: int, batch: int, side: int, checkpointing: bool) -> dict[str, float]:
    """{"step": bytes, "process": bytes, "seconds": CPU time a step}: run in a fresh process.

    Raises: InputError on a system that does not say what is resident.
    """
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
    """`1 + TIMED` training steps in this process."""
    import torch

    from irstd import config as configuration
    from irstd.bench.ggl_net import training_batch
    from irstd.models import build_model
    from irstd.training.heap import keep_freed_memory
    from irstd.training.optimizer import build_optimizer

    torch.set_num_threads(1)
    keep_freed_memory()
    options = {"model.width": width, "train.activation_checkpointing": bool(checkpointing)}
    config = configuration.load(overrides=options)
    model = build_model(config).to(memory_format=torch.channels_last).train()
    optimizer, given = build_optimizer(model, config.train), training_batch(batch, side)
    before, start = resident("VmRSS"), 0.0
    for number in range(1 + TIMED):
        if number == 1:
            start = time.process_time()
        loss, _ = model.loss(given)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    seconds = (time.process_time() - start) / TIMED
    return {"step": resident("VmHWM") - before, "process": resident("VmHWM"), "seconds": seconds}


def resident(name: str) -> int:
    """A line of the process's status in bytes: VmRSS, resident now, or VmHWM, the most so far."""
    for line in STATUS.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise InputError(f"{STATUS} has no {name}; Linux has it")


if __name__ == "__main__":
    print(json.dumps(step(*(int(v) for v in sys.argv[1:5]))))
