"""Anyone's networks: found by name, and their code as content.

A name is `package.module:Class`, a function that returns a network will do as well. An entry point of the group
`irstd.models` stands for such a name. The code behind it is hashed into a run's identity, goes to workers, and travels
with a model package, so that the package runs where the code is not installed.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.metadata
import importlib.util
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from irstd.errors import InputError, nearest

GROUP = "irstd.models"
"""The entry points that name networks."""
CARRIED = (".py", ".json", ".yaml", ".yml", ".toml", ".txt", ".csv")
"""What counts as code: modules, and small files that they may read."""
LARGEST = 16 * 2**20
"""Bytes of code that a model package carries at most."""
COMPILED = (".so", ".pyd", ".dylib")


def entry_points() -> dict[str, str]:
    """Names of the group `irstd.models` with what they stand for, `package.module:Class`."""
    return {point.name: point.value.partition("[")[0].strip() for point in importlib.metadata.entry_points(group=GROUP)}


def find(name: str) -> Callable[..., Any]:
    """What `package.module:Class` names; `InputError` with the reason where it cannot be had."""
    path, _, attribute = name.partition(":")
    if not attribute.isidentifier() or not all(part.isidentifier() for part in path.split(".")):
        raise InputError(f"{name!r} names no network; write package.module:Class")
    # Modules may have been written since the process began.
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        missing = error.name or path
        if path == missing or path.startswith(f"{missing}."):
            raise InputError(
                f"{name}: there is no module {missing!r}; install it, or run irstd in the folder that holds it"
            ) from error
        raise InputError(f"{name}: imports {missing!r}, which is not installed") from error
    except (Exception, SystemExit) as error:
        raise InputError(f"{name}: importing {path} fails: {line(error)}") from error
    found = getattr(module, attribute, None)
    if found is None:
        known = [k for k, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == path]
        have = f"; there are: {', '.join(known)}" if known else ""
        raise InputError(f"{name}: {path} has no {attribute!r}{nearest(attribute, known)}{have}")
    if not callable(found):
        raise InputError(f"{name}: is a {type(found).__name__}, not a class or a function that makes a network")
    return found


def make(name: str, options: Mapping[str, Any]) -> Any:
    """An instance of what `name` names; `InputError` where it does not take the options."""
    maker = find(name)
    try:
        return maker(**options)
    except InputError:
        raise
    except Exception as error:
        given = ", ".join(f"{k}={v!r}" for k, v in options.items()) or "no options"
        raise InputError(f"{name}: cannot be made with {given}: {line(error)}") from error


def line(error: BaseException) -> str:
    """An error's kind and its first line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


@dataclass(frozen=True)
class Source:
    """The code of a network: the package (or the single module) that its name begins with, and the modules beside it that
    are imported from there.

    files: bytes by path, relative to the folder in which they can be imported. installed: top-level names that hold
    compiled libraries; they are hashed, and must be installed wherever the network runs.
    """

    files: Mapping[str, bytes]
    installed: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str) -> Source:
        """The code behind `package.module:Class`; empty for irstd's own networks. `InputError` where it is too large."""
        top = name.partition(":")[0].partition(".")[0]
        spec = importlib.util.find_spec(top) if top != "irstd" else None
        if spec is None:
            return cls({})
        places = spec.submodule_search_locations
        base = Path(next(iter(places)) if places else str(spec.origin)).resolve().parent
        # Beside an installed package lie all others, which are requirements.
        alone = base in {Path(sysconfig.get_paths()[kind]).resolve() for kind in ("purelib", "platlib", "stdlib")}
        files: dict[str, bytes] = {}
        installed, waiting, seen = [], [top], set()
        while waiting:
            current = waiting.pop()
            seen.add(current)
            part, compiled = _files(base, current)
            files |= part
            if compiled:
                installed.append(current)
            if not alone:
                waiting += sorted(t for t in imported(part) - seen - {"irstd"} if _beside(base, t))
                seen.update(waiting)
        size = sum(len(v) for k, v in files.items() if k.partition("/")[0].removesuffix(".py") not in installed)
        if size > LARGEST:
            raise InputError(
                f"{name}: its code and the text files beside it are {size / 2**20:.0f} MB, and a model package carries "
                f"{LARGEST // 2**20} at most; move data out of {base / top}"
            )
        return cls(dict(sorted(files.items())), tuple(sorted(installed)))

    @classmethod
    def read(cls, folder: Path) -> Source:
        """The code that `write` left in `folder`; empty where there is none."""
        found = sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
        return cls({p.relative_to(folder).as_posix(): p.read_bytes() for p in found})

    def write(self, folder: Path) -> None:
        """Leave the files that travel in `folder`."""
        for path, content in self.travels().items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)

    @contextmanager
    def unpacked(self) -> Iterator[None]:
        """Inside this block the code is imported from a copy of its own."""
        with tempfile.TemporaryDirectory(prefix="irstd-code-") as place:
            self.write(Path(place))
            with carried(Path(place), keep=False):
                yield

    def travels(self) -> dict[str, bytes]:
        return {k: v for k, v in self.files.items() if k.partition("/")[0] not in self.installed}

    @property
    def hash(self) -> str:
        """sha256 of the syntax trees of the modules and the bytes of the other files that travel."""
        hashed = hashlib.sha256()
        for path, content in self.files.items():
            hashed.update(path.encode())
            hashed.update(tree(content).encode() if path.endswith(".py") else content)
        return hashed.hexdigest()

    def requirements(self) -> list[str]:
        """`name==version` of the installed distributions that the code imports, or is."""
        owners = importlib.metadata.packages_distributions()
        own = {path.partition("/")[0].removesuffix(".py") for path in self.travels()}
        found = {d for top in (imported(self.files) | set(self.installed)) - own for d in owners.get(top, ())}
        return sorted(f"{d}=={importlib.metadata.version(d).split('+')[0]}" for d in found - {"irstd"})


def _files(base: Path, top: str) -> tuple[dict[str, bytes], bool]:
    """Files of one top-level module or package by path, and whether it holds compiled libraries."""
    if not (base / top).is_dir():
        return {f"{top}.py": (base / f"{top}.py").read_bytes()}, False
    found, compiled = {}, False
    for path in sorted((base / top).rglob("*")):
        inner = path.relative_to(base)
        if any(part == "__pycache__" or part.startswith(".") for part in inner.parts) or not path.is_file():
            continue
        compiled = compiled or path.suffix in COMPILED
        if path.suffix in CARRIED:
            found[inner.as_posix()] = path.read_bytes()
    return found, compiled


def _beside(base: Path, top: str) -> bool:
    """Whether the import of `top` is a module or a package in the folder `base`."""
    return (base / f"{top}.py").is_file() or ((base / top).is_dir() and any((base / top).glob("**/*.py")))


def imported(files: Mapping[str, bytes]) -> set[str]:
    """Top-level names that the modules among `files` import."""
    found = set()
    for path, content in files.items():
        for node in ast.walk(_parsed(content)) if path.endswith(".py") else ():
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found


def tree(source: str | bytes) -> str:
    """A dump of the source's syntax tree without docstrings: comments and layout do not count."""
    parsed = _parsed(source)
    for node in ast.walk(parsed):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
    return ast.dump(parsed, include_attributes=False)


def _parsed(source: str | bytes) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError):  # a template, or another language's file: its bytes count
        text = source.decode("latin-1") if isinstance(source, bytes) else source
        return ast.Module([ast.Assign([ast.Name("_")], ast.Constant(text))], [])


@contextmanager
def carried(folder: Path, keep: bool = True) -> Iterator[None]:
    """Inside this block the modules in `folder` are imported from there, whatever else goes by their names.

    keep: afterwards they stay where no others can be had by their names, since a network may import while it runs.
    """
    tops = {path.name.removesuffix(".py") for path in folder.iterdir()} if folder.is_dir() else set()
    others = _taken(tops)
    quiet, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    if tops:
        sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.dont_write_bytecode = quiet
        if tops:
            sys.path.remove(str(folder))
        mine = _taken(tops)
        sys.modules.update(others)
        alone = {top for top in tops if keep and importlib.util.find_spec(top) is None}
        sys.modules.update({name: module for name, module in mine.items() if name.partition(".")[0] in alone})


def _taken(tops: set[str]) -> dict[str, Any]:
    """The imported modules of these top-level names, which are then imported no more."""
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in tops}
