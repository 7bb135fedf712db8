"""Prefect flows: one arrow of the data's way each, run as a child process by a task.

The only package that imports prefect; its modules do, this one does not, so that the names are known at once.
"""

FLOWS = {
    "ingest-flow": "pipelines.ingest.ingest_flow",
    "shard-flow": "pipelines.shard.shard_flow",
    "train-flow": "pipelines.train.train_flow",
    "tune-flow": "pipelines.tune.tune_flow",
    "promote-flow": "pipelines.promote.promote_flow",
    "detect-flow": "pipelines.detect.detect_flow",
}
"""Name of each flow and where it is; deployed as NAME/default by prefect.yaml."""
