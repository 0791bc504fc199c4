"""Restoring of a lineage's code from commit and patch into a folder."""

import hashlib
import os
import subprocess
from pathlib import Path

from llava_av.provenance.source_code import GitLineage, SourceCodeError, code_digest
from llava_av.redaction import redact_line

__all__ = ["restore_code"]

_TIMEOUT_S = 600


def restore_code(folder: Path, repository: str, git: GitLineage, patch: bytes | None, *, digest: str) -> Path:
    """Clone a repository into a folder, check out the commit and apply the patch.

    The repository itself does not change.

    Args:
        folder: Folder to create; it must not exist.
        repository: Path or URL of a repository with the commit.
        git: Code as recorded in the lineage.
        patch: Stored difference from the commit; None if there was none.
        digest: Result of `code_digest` for the code that ran.

    Raises:
        SourceCodeError: There is no commit, the repository does not have it, the patch is not that of the
            lineage or does not apply, or the result is other code.
    """
    if git.commit is None:
        raise SourceCodeError(f"the lineage has no git commit to check out: {git.note}")
    _require_patch(git, patch)
    _git("clone", "--quiet", "--no-checkout", repository, str(folder), what=f"clone {repository}")
    where = ("-C", str(folder))
    if not _knows(folder, git.commit):
        # A commit outside of all branches is not in a clone, but a server may return it by its name.
        _git(
            *where, "fetch", "--quiet", "origin", git.commit, what=f"find commit {git.commit} in {repository}"
        )
    _git(*where, "checkout", "--quiet", "--detach", git.commit, what=f"check out {git.commit}")
    if patch:
        _git(*where, "apply", "--whitespace=nowarn", "-", given=patch, what="apply the stored patch")
    made = code_digest(folder)
    if made != digest:
        raise SourceCodeError(
            f"commit {git.commit[:12]} with its patch does not match the code that ran (digest {made[:12]}…, "
            f"not {digest[:12]}…): the repository was rewritten"
        )
    return folder


def _require_patch(git: GitLineage, patch: bytes | None) -> None:
    found = hashlib.sha256(patch or b"").hexdigest()
    if git.patch_sha256 not in (None, found):
        raise SourceCodeError(
            f"the stored patch does not match the lineage (sha256 {found[:12]}…, not "
            f"{git.patch_sha256[:12]}…): it was altered or lost"
        )


def _knows(folder: Path, commit: str) -> bool:
    asked = ["git", "-C", str(folder), "cat-file", "-e", f"{commit}^{{commit}}"]
    return subprocess.run(asked, capture_output=True, check=False, env=_environment()).returncode == 0


def _git(*arguments: str, what: str, given: bytes = b"") -> None:
    try:
        done = subprocess.run(
            ["git", *arguments],
            input=given,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
            env=_environment(),
        )
    except FileNotFoundError:
        raise SourceCodeError(f"cannot {what}: git is not installed; install it") from None
    except subprocess.TimeoutExpired:
        raise SourceCodeError(f"cannot {what}: git took more than {_TIMEOUT_S} s") from None
    if done.returncode:
        said = redact_line(done.stderr.decode(errors="replace"))
        raise SourceCodeError(f"cannot {what}: {said}; name a repository that has it with --repository")


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return {**kept, "GIT_TERMINAL_PROMPT": "0"}
