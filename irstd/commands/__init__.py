"""What each command does: the layers below put together. `irstd.cli` is their face; Prefect runs them as child processes."""
