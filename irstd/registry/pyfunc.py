"""What a registered version runs: MLflow loads this file as code, beside the model package and irstd's lower layers.

    model = mlflow.pyfunc.load_model("models:/ggl-net@champion")
    model.predict(frames_THW)     # sensor counts -> [{"frame", "boxes", "scores"}, ...]
    model.predict(frames_THW, params={"bit_depth": 12})     # of another camera; by default as in training

Nothing is unpickled, and irstd need not be installed: the layers that it needs travel with the version. Files that are not
what they were when they were registered are refused.
"""

from __future__ import annotations

from typing import Any

import mlflow
import numpy as np


class IrstdModel(mlflow.pyfunc.PythonModel):
    def load_context(self, context: Any) -> None:
        from irstd.inference.detector import Detector

        self.detector = Detector.load(context.artifacts["package"])

    def predict(
        self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        return [
            {"frame": index, "boxes": found.boxes_N4.tolist(), "scores": found.scores_N.tolist()}
            for index, found in enumerate(self.detector(np.asarray(model_input), (params or {}).get("bit_depth")))
        ]


mlflow.models.set_model(IrstdModel())
