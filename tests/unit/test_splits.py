"""Groups are given to splits once, in balance, and the same whatever the order."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from irstd.config import SplitConfig
from irstd.data import splits
from irstd.errors import InputError

SHARES = SplitConfig()
EQUAL = SplitConfig(train=0.25, val=0.25, gate=0.25, test=0.25)


def groups(count: int, seed: int = 0) -> dict[str, int]:
    rng = random.Random(seed)
    return {f"g{i}": rng.randint(50, 400) for i in range(count)}


def frames_of(given: dict[str, str], sizes: dict[str, int]) -> Counter[str]:
    found: Counter[str] = Counter()
    for group, size in sizes.items():
        found[given[group]] += size
    return found


@pytest.mark.parametrize("count", [20, 50, 200])
@pytest.mark.parametrize("seed", range(5))
def test_shares_are_met(count: int, seed: int) -> None:
    sizes = groups(count, seed)
    found = frames_of(splits.assign({}, sizes, SHARES), sizes)
    total = sum(sizes.values())
    for split in splits.SPLITS:
        # No split can be nearer than about half a group.
        assert abs(found[split] / total - getattr(SHARES, split)) < 300 / total


def test_order_does_not_matter() -> None:
    sizes = groups(30)
    reverse = dict(reversed(sizes.items()))
    assert splits.assign({}, sizes, SHARES) == splits.assign({}, reverse, SHARES)


@pytest.mark.parametrize("seed", range(10))
def test_a_group_never_moves(seed: int) -> None:
    sizes, given, rng = {}, {}, random.Random(seed)
    for _ in range(12):
        sizes |= {f"g{len(sizes) + i}": rng.randint(0, 300) for i in range(rng.randint(1, 4))}
        after = splits.assign(given, sizes, SHARES)
        assert given.items() <= after.items()
        given = after
    assert set(given) == {group for group, size in sizes.items() if size}
    assert set(given.values()) == set(splits.SPLITS)


def test_few_groups() -> None:
    for count in (0, 1, 2):
        assert splits.assign({}, groups(count), SHARES) == {}
    assert sorted(splits.assign({}, groups(3), SHARES).values()) == ["test", "train", "val"]
    for count in (4, 5, 6):
        assert set(splits.assign({}, groups(count), SHARES).values()) == set(splits.SPLITS)
    assert set(splits.assign({}, groups(4), EQUAL).values()) == set(splits.SPLITS)
    no_gate = SplitConfig(train=0.7, val=0.15, gate=0, test=0.15)
    assert set(splits.assign({}, groups(9), no_gate).values()) == {"train", "val", "test"}
    # The fourth group completes the set.
    three = splits.assign({}, groups(3), SHARES)
    assert splits.assign(three, groups(4), SHARES)["g3"] == "gate"


def test_two_waiting_groups_are_given_with_the_third() -> None:
    waiting = splits.assign({}, {"a": 10, "b": 10}, SHARES)
    assert sorted(splits.assign(waiting, {"a": 10, "b": 10, "c": 10}, SHARES).values()) == ["test", "train", "val"]


def test_groups_without_labels_get_no_split() -> None:
    sizes = groups(5) | {"unknown": 0}
    assert "unknown" not in splits.assign({}, sizes, SHARES)
    assert splits.assign({}, {"a": 1, "b": 1, "c": 0, "d": 0}, SHARES) == {}


def test_groups_with_and_without_targets_are_both_spread() -> None:
    sizes = {f"with{i}": 40 for i in range(8)} | {f"without{i}": 500 for i in range(8)}
    given = splits.assign({}, sizes, EQUAL, {f"with{i}" for i in range(8)})
    for kind in ("with", "without"):
        assert Counter(given[f"{kind}{i}"] for i in range(8)) == dict.fromkeys(splits.SPLITS, 2)


def test_targets_come_first_where_they_are_few() -> None:
    sizes = {"a": 10, "b": 10, "c": 10} | {f"empty{i}": 1000 for i in range(5)}
    given = splits.assign({}, sizes, SHARES, {"a", "b", "c"})
    assert {given["a"], given["b"], given["c"]} == {"train", "val", "test"}
    assert "gate" in given.values()


def test_published_lists_are_kept() -> None:
    listed = {"a": "train", "b": "val", "c": "test", "d": "unlisted"}
    assert splits.published({}, listed, SHARES) == (listed, None)
    with pytest.raises(InputError, match=r"^group 'a' is in 'train' and would move to 'test': .*another --name"):
        splits.published(listed, {"a": "test", "b": "val"}, SHARES)


def test_a_share_of_train_becomes_val_where_a_list_has_none() -> None:
    listed = {f"g{i}": "train" for i in range(100)} | {f"t{i}": "test" for i in range(30)}
    found, rate = splits.published({}, listed, SHARES)
    assert rate == pytest.approx(0.15 / 0.75)
    assert Counter(found.values()) == {"train": 80, "val": 20, "test": 30}
    assert all(found[f"t{i}"] == "test" for i in range(30))
    assert splits.published({}, dict(reversed(listed.items())), SHARES)[0] == found
    assert splits.published(found, listed, SHARES)[0] == found
    more = listed | {f"h{i}": "train" for i in range(50)}
    grown, _ = splits.published(found, more, SHARES)
    assert found.items() <= grown.items()
    assert Counter(grown.values()) == {"train": 120, "val": 30, "test": 30}


@pytest.mark.parametrize(("frames", "gap"), [(100, 5), (37, 3), (10, 2), (4, 0), (1000, 64)])
@pytest.mark.parametrize("shares", [SHARES, EQUAL, SplitConfig(train=0.5, val=0, gate=0, test=0.5)])
def test_blocks(frames: int, gap: int, shares: SplitConfig) -> None:
    found = splits.blocks(frames, shares, gap)
    assert [split for split, *_ in found] == [s for s in splits.SPLITS if getattr(shares, s) > 0]
    assert found[0][1] == 0 and found[-1][2] == frames
    for (_, start, stop), (_, after, _) in zip(found, found[1:], strict=False):
        assert start < stop and after - stop == gap
    usable = frames - gap * (len(found) - 1)
    for split, start, stop in found:
        assert stop > start
        # One frame each is set aside, the rest is rounded.
        assert abs(stop - start - 1 - getattr(shares, split) * (usable - len(found))) <= 1


def test_blocks_of_a_short_sequence_are_refused() -> None:
    with pytest.raises(InputError, match=r"^18 frames are too few for 4 stretches with gaps of 5: ingest a longer"):
        splits.blocks(18, SHARES, 5)
    assert len(splits.blocks(19, SHARES, 5)) == 4


def test_splits_without_a_share_need_no_group() -> None:
    two = SplitConfig(train=0.5, val=0.5, gate=0, test=0)
    assert splits.least(two) == ["train", "val"] and splits.least(SHARES) == ["train", "val", "test"]
    assert sorted(splits.assign({}, {"a": 5, "b": 9}, two).values()) == ["train", "val"]
    assert splits.assign({}, {"a": 5, "b": 9}, SHARES) == {}
