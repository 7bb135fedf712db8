"""Which key frames come when: by seed and epoch alone, shared among ranks without loss, and resumed to the bit."""

from __future__ import annotations

import json
from collections import Counter
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from irstd.config import ShardConfig
from irstd.data import shards
from irstd.data.loader import ClipLoader
from irstd.errors import InputError

Key = tuple[str, int]


def loaders(folder: Path, split: str, world: int, **options: Any) -> list[ClipLoader]:
    return [ClipLoader(folder, split, rank=rank, world_size=world, **options) for rank in range(world)]


def keys(loader: ClipLoader) -> list[list[Key]]:
    return [batch["key"] for batch in loader]


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys() and found["key"] == expected["key"]
    assert found["intensity"] == expected["intensity"]
    for name in found.keys() - {"key", "boxes", "ignore", "intensity"}:
        assert found[name].dtype == expected[name].dtype
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    for name in ("boxes", "ignore"):
        for left, right in zip(found[name], expected[name], strict=True):
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
@pytest.mark.parametrize("split", ["val", "test", "gate"])
def test_all_ranks_together_see_each_key_frame_once(sample_shards, split, world, batch_size):
    everything = sum(keys(ClipLoader(sample_shards, split)), [])
    assert everything == sorted(everything)
    parts, positions = [], []
    for loader in loaders(sample_shards, split, world, batch_size=batch_size):
        batches, after = [], []
        for batch in loader:
            batches.append(batch["key"])
            after.append(loader.state_dict()["consumed"])
        assert len(batches) == len(loader) and all(0 < len(batch) <= batch_size for batch in batches)
        parts.append(batches)
        positions.append(after)
    longest = max(positions, key=len)
    assert all(after == longest[: len(after)] for after in positions)  # a step means the same on all ranks
    counts = {len(batches) for batches in parts}
    assert len(counts) == 1 or (batch_size == 1 and max(counts) - min(counts) == 1)
    assert Counter(sum(sum(parts, []), [])) == Counter(everything)


@pytest.mark.parametrize("world", [2, 3])
def test_train_steps_do_not_depend_on_the_number_of_ranks(sample_shards, world):
    """Step k of all ranks together is the global batch k of one rank, in its order; drop the last in both."""
    single = ClipLoader(sample_shards, "train", batch_size=6, crop=16)
    whole = list(single)
    parts = [list(each) for each in loaders(sample_shards, "train", world, batch_size=6 // world, crop=16)]
    assert [len(part) for part in parts] == [len(whole)] * world == [6] * world  # 37 key frames
    for step, batch in enumerate(whole):
        assert sum((part[step]["key"] for part in parts), []) == batch["key"]
        for name in ("frames", "gradient", "masks", "seeds", "offset"):  # crops as well
            np.testing.assert_array_equal(np.concatenate([part[step][name] for part in parts]), batch[name])
    assert len(set(sum((batch["key"] for batch in whole), []))) == 36


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_workers_change_nothing(sample_shards, workers):
    options = {"batch_size": 3, "crop": 16, "seed": 4}
    alone = ClipLoader(sample_shards, "train", **options)
    helped = ClipLoader(sample_shards, "train", workers=workers, **options)
    for _ in range(2):  # epochs
        for found, expected in zip(helped, alone, strict=True):
            assert_same(found, expected)
            assert helped.state_dict() == alone.state_dict()


def test_seed_and_epoch_decide_the_order(sample_shards):
    def order(seed: int, epoch: int) -> list[list[Key]]:
        loader = ClipLoader(sample_shards, "train", batch_size=4, seed=seed)
        loader.set_epoch(epoch)
        return keys(loader)

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len({json.dumps(each) for each in orders}) == 6
    assert order(1, 2) == orders[-1]
    loader = ClipLoader(sample_shards, "train", batch_size=4)
    assert [keys(loader), keys(loader), keys(loader)] == orders[:3]  # an epoch that ends moves on to the next
    loader.set_epoch(1)
    assert keys(loader) == orders[1]
    first = {key: seed for batch in loader for key, seed in zip(batch["key"], batch["seeds"], strict=True)}
    second = {key: seed for batch in loader for key, seed in zip(batch["key"], batch["seeds"], strict=True)}
    assert all(first[key] != second[key] for key in first.keys() & second.keys())  # another augmentation each epoch


def test_draws_are_the_same_in_every_process(sample_shards):
    """Crops and augmentation come from seed, epoch and key frame by numbers that no process makes up."""
    loader = ClipLoader(sample_shards, "train", seed=7)
    loader.set_epoch(2)
    for batch in loader:
        for (name, frame), seed in zip(batch["key"], batch["seeds"], strict=True):
            digest = blake2b(f"7/2/{name}/{frame}".encode(), digest_size=32).digest()
            assert seed == int.from_bytes(digest[24:], "little")


def test_looking_at_a_batch_does_not_use_it_up(sample_shards):
    for split in ("train", "val"):
        loader = ClipLoader(sample_shards, split, batch_size=2)
        first = next(iter(loader))
        batches = list(loader)
        assert len(batches) == len(loader)
        assert_same(batches[0], first)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_state_goes_on_with_the_next_batch(sample_shards, split, workers):
    options = {"batch_size": 2, "crop": 16, "seed": 3, "workers": workers}
    loader = ClipLoader(sample_shards, split, **options)
    loader.set_epoch(5)
    expected, states = [], []
    for batch in loader:
        expected.append(batch)
        states.append(json.loads(json.dumps(loader.state_dict())))  # as a checkpoint keeps it
    following = next(iter(loader))
    for done, state in enumerate(states, 1):
        resumed = ClipLoader(sample_shards, split, **options)
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        resumed.set_epoch(5)  # what a training loop does before each epoch
        rest = list(resumed)
        assert len(rest) == len(expected) - done
        for found, wanted in zip(rest, expected[done:], strict=True):
            assert_same(found, wanted)
        assert_same(next(iter(resumed)), following)  # the epoch after it is whole


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 3), (3, 2)])
@pytest.mark.parametrize("split", ["train", "val"])
def test_another_number_of_ranks_finishes_the_epoch(sample_shards, split, before, after):
    """Nothing lost, nothing twice; in training with the same global batch the same steps."""
    size = 6 if split == "train" else 1
    each, then = (max(1, size // before), max(1, size // after))
    everything = sum(keys(ClipLoader(sample_shards, split, batch_size=size)), [])
    given: list[Key] = []
    states = []
    for loader in loaders(sample_shards, split, before, batch_size=each):
        found = iter(loader)
        for _ in range(2):
            given += next(found)["key"]
        states.append(loader.state_dict())
    assert states == [states[0]] * before  # every rank keeps the same one
    rest: list[list[list[Key]]] = []
    for loader in loaders(sample_shards, split, after, batch_size=then):
        loader.load_state_dict(states[0])
        rest.append(keys(loader))
    assert Counter(given + sum(sum(rest, []), [])) == Counter(everything)
    if split == "train":
        steps = [sum(parts, []) for parts in zip(*rest, strict=True)]
        assert steps == keys(ClipLoader(sample_shards, split, batch_size=6))[2:]


def test_a_state_of_other_shards_is_refused(sample_shards, sample_data, tmp_path):
    state = ClipLoader(sample_shards, "train").state_dict()
    shards.build(sample_data, tmp_path, ShardConfig(frames=5, chunk=3))
    for loader in (
        ClipLoader(tmp_path, "train"),
        ClipLoader(sample_shards, "val"),
        ClipLoader(sample_shards, "train", seed=1),
    ):
        with pytest.raises(InputError, match="belongs to other shards or another seed"):
            loader.load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 0}, "frames=0: give 1 or more"),
        ({"batch_size": 0}, "batch_size=0: give 1 or more"),  # would give no key frame for ever
        ({"crop": 0}, "crop=0: give 1 or more"),
        ({"workers": -1}, "workers=-1: give 0 or more"),
        ({"world_size": 0}, "world_size=0: give 1 or more"),
        ({"rank": 2, "world_size": 2}, "rank=2: ranks count from 0 to world_size - 1, here 1"),
        ({"rank": -1}, "rank=-1: ranks count from 0"),
        ({"target_crop": 2}, "target_crop=2: a probability"),
    ],
)
def test_arguments_out_of_range_are_refused(sample_shards, options, message):
    with pytest.raises(InputError, match=message):
        ClipLoader(sample_shards, "val", **options)


def test_a_state_of_something_else_is_refused(sample_shards):
    with pytest.raises(InputError, match="state lacks consumed, epoch, frames, seed; give what `state_dict` returned"):
        ClipLoader(sample_shards, "train").load_state_dict({"model": 1})
