"""A run's history as curves: every kind of network, with and without a val split, one row or many."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from irstd.metrics import progress

MASKS = {"val_iou": 0.5, "val_niou": None, "val_pd": 0.9, "val_fa": 3e-5}
BOXES = {"val_ap50": 0.5, "val_precision": None, "val_recall": 0.9, "val_f1": 0.1, "val_false_alarms_per_frame": 2.5}


@pytest.mark.parametrize("values", [MASKS, BOXES, {}])
@pytest.mark.parametrize("rows", [1, 150])
def test_a_history_becomes_curves(values, rows):
    history = [
        {"epoch": i, "step": 10 * i, "loss": 1 / i, "lr": 1e-3, "loss_bce": 0.5 / i, "loss_soft_iou": 0.1, **values}
        for i in range(1, rows + 1)
    ]
    tables = progress.tables(history)
    assert list(tables) == (["loss", "val"] if values else ["loss"])
    assert list(tables["loss"]) == ["epoch", "step", "loss", "loss_bce", "loss_soft_iou", "lr"]
    assert tables["loss"]["loss"] == [row["loss"] for row in history]
    if values:
        assert tables["val"] == {"epoch": tables["loss"]["epoch"], "step": tables["loss"]["step"]} | {
            name: [value] * rows for name, value in values.items()
        }
    for name, columns in tables.items():
        png = progress.picture(name, columns, 10, {"step": 10, "chosen": "val-best"}, "a run\nof something")
        image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
        # The loss or the first number of val in its colour (BGR), and the line of what was kept.
        drawn = (np.abs(image.astype(int) - (0xA8, 0x5F, 0x1F)).max(axis=2) < 8).sum()
        assert image.shape[:2] == (576, 768) and drawn > (3 if rows == 1 else 200)
