"""What of irstd a version carries: the modules that detection imports, and those that its `code` is the hash of."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from irstd.files import canonical_json, sha256_text
from irstd.foreign import Source
from irstd.training.identity import COMPUTES

PACKAGE = Path(__file__).resolve().parent.parent
# Detection, and all networks: which one is found by its name.
ROOTS = ("irstd.inference.detector", "irstd.models")


def needed(code: Source | None = None) -> list[str]:
    """Paths of modules, relative to the package: what detection imports (a network's own `code` included), wherever in a
    file, and what computes results. The latter is there to be hashed, and imports nothing."""
    roots = [*ROOTS, *(_modules_of(code) if code else ())]
    return sorted(_closure(tuple(roots)) | {p.relative_to(PACKAGE).as_posix() for p in _computing()})


def source(paths: Iterable[str], package: Path = PACKAGE) -> Source:
    """These modules of a package folder, as code."""
    return Source({path: (package / path).read_bytes() for path in sorted(paths)})


def sha256(code: Source) -> str:
    """Of paths and bytes."""
    return sha256_text(
        canonical_json({path: hashlib.sha256(content).hexdigest() for path, content in code.files.items()})
    )


def _computing() -> Iterator[Path]:
    for part in COMPUTES:
        found = PACKAGE / part
        yield from sorted(found.rglob("*.py")) if found.is_dir() else [found]


def _modules_of(code: Source) -> Iterator[str]:
    for path, content in code.files.items():
        if path.endswith(".py"):
            yield from _imports(content)


@cache
def _closure(roots: tuple[str, ...]) -> set[str]:
    waiting = [path for root in roots for path in _paths(root, whole=True)]
    found: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += [p for module in _imports((PACKAGE / path).read_bytes()) for p in _paths(module)]
    return found


def _paths(module: str, whole: bool = False) -> Iterator[str]:
    """The file of a module (with `whole`, all of a package) and the packages that it lies in; nothing for a name in one."""
    parts = module.split(".")[1:]
    for length in range(len(parts) + 1):
        place = "/".join(parts[:length])
        if (PACKAGE / place / "__init__.py").is_file():
            yield f"{place}/__init__.py".lstrip("/")
        elif place and (PACKAGE / f"{place}.py").is_file():
            yield f"{place}.py"
    if whole and (PACKAGE / "/".join(parts)).is_dir():
        for path in (PACKAGE / "/".join(parts)).rglob("*.py"):
            yield path.relative_to(PACKAGE).as_posix()


def _imports(content: bytes) -> Iterator[str]:
    """irstd's modules that a file imports when it runs: not those for type checkers."""
    waiting: list[ast.AST] = [ast.parse(content)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "irstd")
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "irstd":
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        waiting += ast.iter_child_nodes(node)
