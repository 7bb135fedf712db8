"""DVC and git, by their command lines: the only caller of both.

One changing DVC command at a time for a workspace: DVC itself fails where another one runs, so irstd's own lock waits.
"""

from __future__ import annotations

import configparser
import io
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from filelock import FileLock

from irstd.errors import InputError, WorkError, nearest
from irstd.files import staged_folder, write_atomic
from irstd.workspace import Workspace

Show = Callable[[str], None]
NAMED = "outs:\n- md5: {}\n  hash: md5\n  path: data\n"
"""A `data.dvc` that names a version of data/."""


@contextmanager
def lock(workspace: Workspace) -> Iterator[None]:
    """The workspace's own lock around what changes data/, shards/ or DVC's files; it waits."""
    workspace.home.mkdir(parents=True, exist_ok=True)
    with FileLock(workspace.home / "dvc.lock"):
        yield


def _environment() -> dict[str, str]:
    """This process's variables, with this interpreter's folder first on PATH: stages say `python`."""
    folder = str(Path(sys.executable).parent)
    return os.environ | {"PATH": folder + os.pathsep + os.environ.get("PATH", ""), "DVC_NO_ANALYTICS": "1"}


def dvc(workspace: Workspace, *arguments: str, show: Show | None = None) -> str:
    """Run a DVC command in the workspace; its output. `WorkError` with its last line where it fails.

    `show` is given each line as it comes.
    """
    lines = []
    with subprocess.Popen(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=workspace.root,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            if show:
                show(lines[-1])
    output = "\n".join(lines)
    if process.returncode:
        said = [line.removeprefix("irstd: ") for line in lines if line.startswith("irstd: ")]
        if said:
            raise (InputError if re.search(r"exited with 2\b", output) else WorkError)(said[-1])
        errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
        if errors and "YAML file structure is corrupted" in errors[0]:
            at = re.findall(r"line \d+, column \d+", output)[-1:]
            raise InputError(
                f"{' '.join([errors[0], *at])}: DVC reads YAML 1.2: quotes around texts within [] that have a colon"
            )
        raise WorkError(f"dvc {' '.join(arguments)}: {(errors or lines or ['failed'])[0]}")
    return output


def data_md5(root: Path) -> str | None:
    """The hash in `data.dvc`: the version of data/. None where nothing has been added yet."""
    try:
        outs = (yaml.safe_load((root / "data.dvc").read_text()) or {}).get("outs") or [{}]
        return outs[0].get("md5")
    except (OSError, yaml.YAMLError, AttributeError):
        return None


def _held(workspace: Workspace) -> Path:
    return workspace.home / "data.md5"


def fetch_data(workspace: Workspace, show: Show = print) -> bool:
    """Bring data/ to the version that `data.dvc` names, from cache or remote; False where it is there already."""
    wanted = data_md5(workspace.root)
    if wanted is None:
        workspace.data.mkdir(exist_ok=True)
        return False
    held = _held(workspace)
    if workspace.data.is_dir() and held.is_file() and held.read_text().strip() == wanted:
        return False
    with lock(workspace):
        show(f"data: fetching version {wanted.removesuffix('.dir')[:12]} (dvc pull)")
        dvc(workspace, "pull", "data.dvc")
        held.write_text(wanted)
    return True


@contextmanager
def changing_data(workspace: Workspace, what: str) -> Iterator[list[str]]:
    """Around what changes data/ and the `add_data` that follows. The caller holds the lock.

    A note under the workspace's home lasts until both are done: killed in between, data/ is newer than `data.dvc`, which
    nothing else tells. Gives the notes of earlier calls that did not come to their end. Where the body raises
    `InputError` it has changed nothing, and the notes are as before.
    """
    path = workspace.home / "data.pending"
    before = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    write_atomic(path, "\n".join([*before, what]) + "\n")
    try:
        yield before
    except InputError:
        if before:
            write_atomic(path, "\n".join(before) + "\n")
        else:
            path.unlink()
        raise
    path.unlink()


def add_data(workspace: Workspace) -> str:
    """Record data/ as it is in `data.dvc` (`dvc add`); the new version's hash. The caller holds the lock."""
    path = workspace.root / "data.dvc"
    if data_md5(workspace.root) is None:
        # DVC refuses an empty file; without any, a kill would leave a folder that is no workspace.
        write_atomic(path, "outs:\n- path: data\n")
    try:
        dvc(workspace, "add", "data")
    finally:
        # Even after a failure this folder stays a workspace.
        if data_md5(workspace.root) is None:
            write_atomic(path, "")
    found = data_md5(workspace.root)
    assert found is not None
    _held(workspace).write_text(found)
    return found


def reproduce(workspace: Workspace, stage: str, show: Show) -> bool:
    """`dvc repro -s STAGE`; False where the stage is up to date and did not run."""
    if not (workspace.root / "dvc.yaml").is_file():
        raise InputError(
            f"{workspace.root}: no dvc.yaml here, which says how shards are built; copy it from the repository"
        )
    ran = False

    def filtered(line: str) -> None:
        nonlocal ran
        if line.startswith("Running stage"):
            ran = True
        if line.startswith(("shard ", "warning")):
            show(line)

    with lock(workspace):
        dvc(workspace, "repro", "-s", stage, show=filtered)
    return ran


def check_remote(workspace: Workspace, remote: str) -> None:
    """`InputError` for a remote that cannot be pushed to: the sample's, or one that DVC does not know."""
    if remote.lower() == "sample":  # DVC's names have no case
        raise InputError(
            "the remote 'sample' lies in the repository and holds the sample alone; name one of your own "
            "(dvc remote add NAME URL)"
        )
    known = [line.split()[0] for line in dvc(workspace, "remote", "list").splitlines() if line.strip()]
    if remote.lower() not in known:
        own = [name for name in known if name != "sample"]
        there = f"; there are: {', '.join(own)}" if own else ""
        raise InputError(f"--push {remote}: no such remote{nearest(remote, own)}{there} (dvc remote add {remote} URL)")


def push(workspace: Workspace, remote: str) -> None:
    """`dvc push` to a remote that the user named; never to the sample's."""
    check_remote(workspace, remote)
    dvc(workspace, "push", "-r", remote, "data.dvc")


def commit(root: Path) -> tuple[str | None, bool | None]:
    """(commit, dirty) of the workspace; (None, None) outside git. `data.dvc` and `dvc.lock` are left aside: their
    hashes are recorded on their own."""
    head = _git(root, "rev-parse", "HEAD")
    if head is None:
        return None, None
    changed = _git(root, "status", "--porcelain", "--", ".", ":!data.dvc", ":!dvc.lock")
    return head.strip(), bool((changed or "").strip())


def has_commit(root: Path, name: str) -> bool:
    """Whether a commit is in the workspace's repository."""
    return _git(root, "cat-file", "-e", f"{name}^{{commit}}") is not None


def files_at(root: Path, name: str, folder: str) -> dict[str, bytes]:
    """The files below `folder` of the workspace at a commit, by their paths relative to it; {} where there are none."""
    call = ["git", "archive", "--format=tar", name, "--", folder]
    done = subprocess.run(call, cwd=root, capture_output=True, check=False)
    if done.returncode:
        return {}
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        files = [m for m in tar.getmembers() if m.isfile() and m.name.startswith(f"{folder}/")]
        return {m.name.removeprefix(f"{folder}/"): tar.extractfile(m).read() for m in files}  # type: ignore[union-attr]


def file_at(root: Path, name: str, path: str) -> bytes | None:
    """A file of the workspace at a commit; None where there is none."""
    found = subprocess.run(["git", "show", f"{name}:./{path}"], cwd=root, capture_output=True, check=False)
    return found.stdout if found.returncode == 0 else None


def _git(root: Path, *arguments: str) -> str | None:
    try:
        found = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return found.stdout if found.returncode == 0 else None


def prefix(root: Path) -> str:
    """Where in its repository the workspace lies; "" at its top."""
    return (_git(root, "rev-parse", "--show-prefix") or "").strip()


def checkout(workspace: Workspace, name: str, folder: Path) -> Path:
    """The repository as of a commit in the new folder `folder`; the workspace's root in it. `WorkError` where git fails.

    A clone, not a worktree: deleting the folder is all there is to undo. It borrows the objects of the repository and the cache
    of its DVC, and knows the remotes of `.dvc/config.local`; nothing is written to either repository.
    """
    top = (_git(workspace.root, "rev-parse", "--show-toplevel") or "").strip()
    with staged_folder(folder) as staged:
        for call in (
            ["clone", "--quiet", "--shared", "--no-checkout", top, str(staged)],
            ["-C", str(staged), "checkout", "--quiet", "--detach", name],
        ):
            done = subprocess.run(["git", *call], capture_output=True, text=True, check=False)
            if done.returncode:
                raise WorkError(f"git {call[0]}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
        root = staged / prefix(workspace.root)
        if (workspace.root / ".dvc").is_dir() and (root / ".dvc").is_dir():
            _share_cache(workspace, root, folder)
    return folder / prefix(workspace.root)


def _share_cache(workspace: Workspace, root: Path, folder: Path) -> None:
    local = configparser.ConfigParser(interpolation=None)
    local.read(workspace.root / ".dvc" / "config.local", encoding="utf-8")
    for section in local.sections():
        url = local[section].get("url")
        if url and "://" not in url and not Path(url).is_absolute():
            local[section]["url"] = str((workspace.root / ".dvc" / url).resolve())
    for section in ("core", "cache"):
        if not local.has_section(section):
            local.add_section(section)
    local["cache"]["dir"] = dvc(workspace, "cache", "dir").splitlines()[-1]
    # DVC keeps notes on each repository that it saw, elsewhere, for good.
    local["core"]["site_cache_dir"] = str(folder.parent / "dvc")
    with (root / ".dvc" / "config.local").open("w", encoding="utf-8") as file:
        local.write(file)


def name_data(root: Path, md5: str) -> None:
    """Let `data.dvc` name the version `md5` of data/."""
    write_atomic(root / "data.dvc", NAMED.format(md5))
