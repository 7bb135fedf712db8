"""States saved at any batch, over any number of ranks, with any number of loader processes, also in a new process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from irstd.data import order
from irstd.data.loader import ClipLoader
from tests.unit.test_loader_order import assert_same, keys, loaders

RESUME = """
import json, pickle, sys
from irstd.data.loader import ClipLoader
shards, split, state, options = json.loads(sys.stdin.read())
loader = ClipLoader(shards, split, **options)
loader.load_state_dict(state)
sys.stdout.buffer.write(pickle.dumps(list(loader)))
"""
MANY = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize(("split", "done", "workers"), [("train", 3, 2), ("val", 2, 0)])
def test_a_new_process_goes_on_to_the_bit(sample_shards, split, done, workers):
    import pickle

    options = {"batch_size": 2, "crop": 16, "seed": 5, "workers": workers}
    loader = ClipLoader(sample_shards, split, **options)
    batches = iter(loader)
    for _ in range(done):
        next(batches)
    state = loader.state_dict()
    expected = list(batches)
    given = json.dumps([str(sample_shards), split, state, options])
    ended = subprocess.run([sys.executable, "-c", RESUME], input=given.encode(), capture_output=True, check=True)
    for found, wanted in zip(pickle.loads(ended.stdout), expected, strict=True):
        assert_same(found, wanted)


@MANY
@given(
    split=st.sampled_from(["train", "val"]),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    worlds=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    workers=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    done=st.integers(0, 4),
    epoch=st.integers(0, 3),
)
def test_an_epoch_goes_on_over_any_number_of_ranks(sample_shards, split, sizes, worlds, workers, done, epoch):
    """Each key frame once, in the order of the epoch, but for the incomplete step that training drops at its end."""
    options = {"crop": 16, "seed": 2}
    single = ClipLoader(sample_shards, split, batch_size=1, **options)
    single.set_epoch(epoch)
    everything = sum(keys(single), [])
    steps, states = [], []
    for loader in loaders(sample_shards, split, worlds[0], batch_size=sizes[0], workers=workers[0], **options):
        loader.set_epoch(epoch)
        steps.append([batch["key"] for batch in islice(loader, done)])
        states.append(loader.state_dict())
    begun = max(states, key=lambda state: (state["epoch"], state["consumed"]))
    if begun["epoch"] > epoch:
        return  # the epoch was over
    before = sum(sum(steps, []), [])
    rest = []
    for loader in loaders(sample_shards, split, worlds[1], batch_size=sizes[1], workers=workers[1], **options):
        loader.load_state_dict(json.loads(json.dumps(begun)))
        rest.append(keys(loader))
    after = sum(sum(rest, []), [])
    assert Counter(before) == Counter(everything[: begun["consumed"]])
    assert max(Counter(before + after).values()) == 1
    assert set(before + after) <= set(everything)
    left = len(everything) - len(before) - len(after)
    assert 0 <= left < (sizes[1] * worlds[1] if split == "train" else 1)
    assert split == "val" or len({len(part) for part in rest}) == 1


@given(total=st.integers(1, 400), batch=st.integers(1, 9), world=st.integers(1, 5), drop=st.booleans())
def test_steps_cover_the_epoch_and_ranks_agree(total, batch, world, drop):
    if world > total:
        return
    found = list(order.steps(0, total, batch, world, drop))
    parts = [[order.part(a, b, rank, world, drop) for a, b in found] for rank in range(world)]
    given = np.concatenate([np.concatenate([p for part in parts for p in part] or [np.empty(0, int)])])
    stop = total // (batch * world) * batch * world if drop else total
    np.testing.assert_array_equal(np.sort(given), np.arange(stop))
    assert all(len(p) <= batch for part in parts for p in part)
    if drop or batch > 1:  # as many batches on each rank
        assert all(len(p) == batch if drop else len(p) > 0 for part in parts for p in part)


@MANY
@given(seed=st.integers(0, 2**31), epoch=st.integers(0, 9))
def test_a_stated_share_of_crops_lies_over_targets(sample_shards, seed, epoch):
    """The centre of a chosen target is in the crop; the rest is at random, seeded by key frame and epoch."""
    loader = ClipLoader(sample_shards, "train", batch_size=1, crop=16, seed=seed, target_crop=1.0, gradient=False)
    loader.set_epoch(epoch)
    whole = ClipLoader(sample_shards, "train", batch_size=1, seed=seed, gradient=False)
    whole.set_epoch(epoch)
    for cut, full in zip(loader, whole, strict=True):
        assert cut["key"] == full["key"] and bool(len(cut["boxes"][0])) == bool(len(full["boxes"][0]))


def test_the_share_of_crops_over_targets_is_as_asked(sample_shards):
    over = []
    for epoch in range(12):
        loader = ClipLoader(sample_shards, "train", batch_size=1, crop=4, seed=1, target_crop=0.5, gradient=False)
        loader.set_epoch(epoch)
        windows = loader.windows
        for batch in loader:
            index = next(i for i in range(len(windows)) if windows.key(i) == batch["key"][0])
            if len(windows.targets(int(windows.sample_N[index])).boxes[int(windows.row_N[index])]):
                over.append(len(batch["boxes"][0]) > 0)
    assert 0.42 < np.mean(over) < 0.62 and len(over) > 200  # a crop of 4 pixels hardly meets one by chance
