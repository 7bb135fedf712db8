"""Measurements of the data path and the networks, as ratios against named baselines: what `irstd bench` runs."""
