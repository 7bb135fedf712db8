"""What a recipe says that it leads to, held against what was found: by `irstd train` at its end, and by `irstd evaluate`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from irstd.config import EvaluateConfig, Expected, Recipe
from irstd.files import sha256_file

ASIDE = ("registry.name", "train.init", "train.seed")
"""Values beside a recipe that leave what it leads to as it is, within its tolerance."""


def of(recipe: Path, changed: Iterable[str], quick: bool) -> dict[str, Any]:
    """What a model package keeps of the recipe that it was trained by; of a quick test without the numbers."""
    entries = () if quick else Recipe.read(recipe).expected
    return {
        "file": recipe.name,
        "sha256": sha256_file(recipe),
        "changed": [] if quick else sorted(key for key in changed if key not in ASIDE),
        "expected": [entry.model_dump(mode="json") for entry in entries],
    }


def compared(recipe: Mapping[str, Any], split: str, rows: list[Mapping[str, Any]], chosen: str) -> list[str]:
    """Lines on each number that the recipe expects on `split`. `rows`: what was found, one of each protocol and grid."""
    expected = [Expected.model_validate(entry) for entry in recipe["expected"]]
    lines = [line for entry in expected if (line := entry.held_against(split, rows, chosen))]
    if lines and recipe["changed"]:
        lines.append(f"the run changed {', '.join(recipe['changed'])} of {recipe['file']}, whose numbers these are")
    return lines


def elsewhere(recipe: Mapping[str, Any], split: str) -> str | None:
    """A line on what the recipe expects on other splits than `split`."""
    left = [Expected.model_validate(entry) for entry in recipe["expected"] if entry["split"] != split]
    if not left:
        return None
    numbers = ", ".join(f"{entry.metric} {entry.value:.4g}" for entry in left)
    splits = " and ".join(dict.fromkeys(entry.split for entry in left))
    return f"{recipe['file']} expects on {splits}: {numbers}; irstd evaluate holds them against what it finds"


def of_val(measured: EvaluateConfig, best: Mapping[str, Any], recipe: Mapping[str, Any]) -> list[str]:
    """Lines at the end of a training: val's numbers of the checkpoint that was kept, and what is expected on other splits."""
    values = {name.removeprefix("val_"): value for name, value in best.items() if name.startswith("val_")}
    row = {"protocol": measured.protocol, "grid": measured.grid, **values}
    left = elsewhere(recipe, "val")
    return [*compared(recipe, "val", [row], best["chosen"]), *([left] if left else [])]
