"""Identity of the running code: its digest, its git commit and the difference from it."""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from llava_av.errors import UserError, printable
from llava_av.frozen import FrozenModel

__all__ = [
    "COMMIT_VARIABLE",
    "MODIFIED",
    "CodeState",
    "GitLineage",
    "SourceCodeError",
    "built_from",
    "code_digest",
    "code_state",
    "require_code",
    "require_commit",
]

COMMIT_VARIABLE = "LLAVA_AV_COMMIT"
"""Variable with the commit from which an image was built; an image has no checkout."""
MODIFIED = "-modified"
"""Suffix of a commit from which the code in an image or a package differs."""
_COMMIT_FILE = Path(__file__).with_name("commit.txt")
"""Commit from which a wheel was built, written by setup.py; a checkout has no such file."""
_CODE_FOLDERS = ("llava_av", "pipelines")
_PATCH_FOLDERS = ("llava_av", "pipelines", "recipes", "experiments", "gates")
_MAX_UNTRACKED_MIB = 32
"""Limit of the untracked files in a patch, so that no data set or checkpoint is stored by mistake."""
_GIT_TIMEOUT_S = 60
# Inside a git hook these variables would select another repository.
_FOREIGN_VARIABLES = {
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_WORK_TREE",
}
# A user's settings must not change the patch.
_DIFF = (
    *("-c", "core.quotePath=true", "-c", "diff.noprefix=false", "-c", "diff.mnemonicPrefix=false"),
    *("diff", "--binary", "--full-index", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames"),
    *("--src-prefix=a/", "--dst-prefix=b/", "HEAD"),
)


class SourceCodeError(UserError):
    """A checkout whose state git cannot determine, or an image with an invalid commit."""


class GitLineage(FrozenModel):
    """State of the code in git."""

    commit: str | None
    """Commit ID; None without git or outside a checkout, where only the code's digest identifies it."""
    dirty: bool
    """True if files differ from the commit."""
    patch_sha256: str | None = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the patch from the commit to the code that ran; None if clean or without a commit."""
    note: str | None = None
    """Reason why there is no commit."""


@dataclass(frozen=True, kw_only=True)
class CodeState:
    """Identity of the running code."""

    digest: str
    """Result of `code_digest`."""
    git: GitLineage
    patch: bytes | None
    """Binary patch by which `git apply` turns the commit into the running code; None if there is none."""


def code_digest(root: Path | None = None) -> str:
    """Return the SHA-256 of paths and contents of all `.py` files of `llava_av` and `pipelines`, in hex.

    Args:
        root: Folder of the two packages; that of the running code if None.
    """
    root = _code_root() if root is None else root
    files = {
        file.relative_to(root).as_posix(): file
        for folder in _CODE_FOLDERS
        for file in (root / folder).rglob("*.py")
    }
    total = hashlib.sha256()
    for name in sorted(files):
        content = hashlib.sha256(files[name].read_bytes()).hexdigest()
        total.update(f"{name}\0{content}\n".encode())
    return total.hexdigest()


def require_code(digest: str) -> None:
    """Require that the running code has this digest.

    Raises:
        SourceCodeError: It has another one, such as if a job's image is of another commit than its run.
    """
    if code_digest() != digest:
        raise SourceCodeError(
            f"the run was opened with other code than runs here (digest {digest[:12]}, here "
            f"{code_digest()[:12]}); use images of one commit"
        )


def require_commit(code: CodeState, commit: str) -> None:
    """Require that code equals that of a git commit.

    Raises:
        SourceCodeError: Its commit is another or unknown, or the code differs from its commit.
    """
    if code.git.commit == commit and not code.git.dirty:
        return
    known = code.git.commit or f"unknown ({code.git.note})"
    here = f"{known}, changed" if code.git.dirty else known
    raise SourceCodeError(
        f"the code must be that of commit {commit}, but runs from {here}; use images of that commit"
    )


def code_state(root: Path | None = None) -> CodeState:
    """Return digest, commit and patch of the code.

    The patch leads from the commit to the working tree: all tracked files, and the untracked files under
    llava_av, pipelines, recipes, experiments and gates that git does not ignore, at most 32 MiB together. The
    checkout's index and object store are not changed. Outside of a checkout, the commit is that of
    `built_from`.

    Args:
        root: Checkout; the folder of the running code if None.

    Raises:
        SourceCodeError: Git cannot make the patch, its untracked files are too large, or `LLAVA_AV_COMMIT` is
            not a commit.
    """
    root = (_code_root() if root is None else root).resolve()
    git, patch = _git_state(root)
    return CodeState(digest=code_digest(root), git=git, patch=patch)


def _git_state(root: Path) -> tuple[GitLineage, bytes | None]:
    if shutil.which("git") is None:
        return _built_commit() or _no_commit("git is not installed")
    top = _git(root, "rev-parse", "--show-toplevel")
    # An environment inside a user's own repository must not record that repository as this code.
    if top is None or Path(os.fsdecode(top.rstrip(b"\n"))).resolve() != root:
        return _built_commit() or _no_commit("the code does not run from its own git checkout")
    commit = _git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    if commit is None:
        return _no_commit("the checkout has no commit yet")
    patch = _patch(root)
    if patch is None:
        raise SourceCodeError(f"git cannot compare {root} with its commit; try `git diff HEAD`")
    git = GitLineage(
        commit=commit.decode().strip(),
        dirty=bool(patch),
        patch_sha256=hashlib.sha256(patch).hexdigest() if patch else None,
    )
    return git, patch or None


def built_from() -> str | None:
    """Return the commit of an image or an installed package, with `MODIFIED` if its code differs from it.

    `LLAVA_AV_COMMIT` names that of an image.

    Raises:
        SourceCodeError: The variable is not a commit.
    """
    named = os.environ.get(COMMIT_VARIABLE)
    if named and not re.fullmatch(r"[0-9a-f]{40}", named.removesuffix(MODIFIED)):
        raise SourceCodeError(
            f"{COMMIT_VARIABLE} is '{named}', not a git commit of 40 hex digits; "
            "build the image with images/build, or unset it"
        )
    if not named and _COMMIT_FILE.is_file():
        named = _COMMIT_FILE.read_text(encoding="utf-8").strip()
    return named or None


def _built_commit() -> tuple[GitLineage, None] | None:
    """Return the commit of an image or an installed package; None if it is unknown.

    Neither has a patch, so no commit identifies code that differs from its commit.
    """
    named = built_from()
    if named is None:
        return None
    if named.endswith(MODIFIED):
        commit = named.removesuffix(MODIFIED)
        return _no_commit(f"the code was built from a checkout that differed from commit {commit}")
    return GitLineage(commit=named, dirty=False, patch_sha256=None), None


def _no_commit(note: str) -> tuple[GitLineage, None]:
    return GitLineage(commit=None, dirty=False, patch_sha256=None, note=note), None


def _code_root() -> Path:
    return Path(__file__).resolve().parent.parent.parent


def _patch(root: Path) -> bytes | None:
    """Return the patch, made with a copy of the index; None if git fails."""
    index = _git_path(root, "index")
    objects = _git_path(root, "objects")
    untracked = _untracked(root)
    if index is None or objects is None or untracked is None:
        return None
    _require_small(root, untracked)
    with tempfile.TemporaryDirectory(prefix="llava-av-git-") as folder:
        scratch = {
            "GIT_INDEX_FILE": f"{folder}/index",
            "GIT_OBJECT_DIRECTORY": f"{folder}/objects",
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(objects),
        }
        Path(folder, "objects").mkdir()
        if index.is_file():
            shutil.copy2(index, scratch["GIT_INDEX_FILE"])
        if untracked:
            # With an intent to add, the diff shows a file.
            added = _git(
                root,
                *("--literal-pathspecs", "add", "--intent-to-add"),
                *("--pathspec-from-file=-", "--pathspec-file-nul"),
                variables=scratch,
                given=b"\0".join(untracked),
            )
            if added is None:
                return None
        return _git(root, *_DIFF, variables=scratch)


def _require_small(root: Path, untracked: list[bytes]) -> None:
    sizes = {name: (root / os.fsdecode(name)).lstat().st_size for name in untracked}
    total = sum(sizes.values()) / 2**20
    if total > _MAX_UNTRACKED_MIB:
        largest = max(sizes, key=lambda name: sizes[name])
        raise SourceCodeError(
            f"untracked files in {', '.join(_PATCH_FOLDERS)} of {root} have {total:.0f} MiB, but a run "
            f"stores at most {_MAX_UNTRACKED_MIB} MiB of them in its patch: move, ignore or commit them; the "
            f"largest is {printable(os.fsdecode(largest))}"
        )


def _git_path(root: Path, name: str) -> Path | None:
    path = _git(root, "rev-parse", "--git-path", name)
    return None if path is None else root / os.fsdecode(path.rstrip(b"\n"))


def _untracked(root: Path) -> list[bytes] | None:
    """Return files of the code's folders that git neither tracks nor ignores; skip nested repositories."""
    listed = _git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", *_PATCH_FOLDERS)
    if listed is None:
        return None
    return [name for name in listed.split(b"\0") if name and not name.endswith(b"/")]


def _git(
    root: Path, *arguments: str, variables: Mapping[str, str] | None = None, given: bytes = b""
) -> bytes | None:
    """Return the output of a git command in `root`; None if it fails."""
    environment = {key: value for key, value in os.environ.items() if key not in _FOREIGN_VARIABLES}
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            env={**environment, "GIT_OPTIONAL_LOCKS": "0", **(variables or {})},
            input=given,
            capture_output=True,
            timeout=_GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
