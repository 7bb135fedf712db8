"""How a package's threshold was chosen: its `threshold_chosen`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def phrase(chosen: Mapping[str, Any]) -> str:
    """In one phrase, with all that its numbers depend on."""
    if "kept" in chosen:
        return f"{chosen['threshold']:g} is kept, since none could be chosen for {chosen['wanted']:g}: {chosen['kept']}"
    if "fa" in chosen:
        found, name, rate = ("Pd", chosen["pd"]), "Fa", f"{chosen['fa'] * 1e6:.2f}e-6"
    else:
        found, name, rate = (
            ("recall", chosen["recall"]),
            "false alarms a frame",
            f"{chosen['false_alarms_per_frame']:.3g}",
        )
    grid = f", grid {chosen['grid'] or 'native'}" if "grid" in chosen else ""
    sets = ", ".join(f"{set_} {digest[:12]}" for set_, digest in sorted(chosen["digests"].items()))
    there = f"{found[0]} {'-' if found[1] is None else format(found[1], '.3f')}"
    return (
        f"{chosen['threshold']:.6g} is the lowest above which {name} never exceeds {chosen['wanted']:g} on "
        f"{chosen['split']} of {sets} ({chosen['protocol']}{grid}): {name} {rate}, {there}"
    )
