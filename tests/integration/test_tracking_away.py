"""A night run does not die because a tracking server restarts: trained with it away, logged and registered when it is back."""

from __future__ import annotations

import json
import time

import pytest

from tests.integration.conftest import irstd
from tests.unit.servers import TrackingServer

RUN = ["train", "ggl-net", "--recipe", "recipes/demo.yaml", "--workers", "1"]
TINY = ["train.epochs=2", "train.val_every=1", "data.crop=32", "train.batch=4", "model.width=4"]

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:The ..noload.. loader:DeprecationWarning")]


def test_a_run_without_its_server_is_registered_by_the_same_command(workspace, tmp_path):
    server = TrackingServer(tmp_path)
    (workspace / "settings.toml").write_text(f'[mlflow]\nuri = "{server.uri}"\n')
    try:
        done = irstd(workspace, *RUN, *TINY, check=1, timeout=540)
        assert f"MLflow at {server.uri} does not answer (Connection refused)" in done.stdout
        assert "training begins, its log follows" in done.stdout
        last = done.stderr.strip().splitlines()
        assert len(last) == 1 and last[0].endswith("when it does, the same command logs and registers the run")
        server.start()
        began = time.time()
        done = irstd(workspace, *RUN, *TINY, timeout=540)
        assert "trained before; what its log lacks is added" in done.stdout and "epoch 1/" not in done.stdout
        found = json.loads(done.stdout.strip().splitlines()[-1].removeprefix("irstd-result: "))
        assert found["model"] == "models:/ggl-net/1"
        from mlflow import MlflowClient

        client = MlflowClient(server.uri, server.uri)
        version = client.get_model_version("ggl-net", "1")
        losses = client.get_metric_history(version.run_id, "loss")
        # At the time at which they were made, not at which they were logged.
        assert len(losses) == 2 and all(m.timestamp < began * 1000 for m in losses)
    finally:
        server.kill()
        (workspace / "settings.toml").unlink()
