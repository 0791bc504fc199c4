"""The code of a lineage, brought back into a folder of its own: commit and patch."""

import hashlib
import os
import subprocess
from pathlib import Path

from llava_av.provenance.source_code import GitLineage, SourceCodeError, code_digest
from llava_av.redaction import redact_line

__all__ = ["restore_code"]

_TIMEOUT_S = 600


def restore_code(folder: Path, repository: str, git: GitLineage, patch: bytes | None, *, digest: str) -> Path:
    """Clones a repository into a folder, checks the commit out and applies the patch.

    The repository itself stays as it is.

    Args:
        folder: where to; it must not exist.
        repository: path or URL of a repository that has the commit.
        git: the code as the lineage has it.
        patch: what differed from the commit, as it was stored; None if nothing did.
        digest: what `code_digest` gave of the code that ran.

    Raises:
        SourceCodeError: there is no commit, the repository does not have it, the patch is not the one of the
            lineage or does not apply, or the result is other code.
    """
    if git.commit is None:
        raise SourceCodeError(f"the lineage has no git commit to check out: {git.note}")
    if git.patch_sha256 is not None:
        found = hashlib.sha256(patch or b"").hexdigest()
        if found != git.patch_sha256:
            raise SourceCodeError(
                f"the stored patch is not the one of the lineage (sha256 {found[:12]}…, not "
                f"{git.patch_sha256[:12]}…): it was tampered with or lost"
            )
    _git("clone", "--quiet", "--no-checkout", repository, str(folder), what=f"clone {repository}")
    where = ("-C", str(folder))
    if not _knows(folder, git.commit):
        # A commit that no branch leads to is not in a clone; a server may still give it by its name.
        _git(
            *where, "fetch", "--quiet", "origin", git.commit, what=f"find commit {git.commit} in {repository}"
        )
    _git(*where, "checkout", "--quiet", "--detach", git.commit, what=f"check out {git.commit}")
    if patch:
        _git(*where, "apply", "--whitespace=nowarn", "-", given=patch, what="apply the stored patch")
    made = code_digest(folder)
    if made != digest:
        raise SourceCodeError(
            f"commit {git.commit[:12]} with its patch is other code than ran (digest {made[:12]}…, not "
            f"{digest[:12]}…): the repository was rewritten"
        )
    return folder


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
        raise SourceCodeError(f"cannot {what}: git is not installed") from None
    except subprocess.TimeoutExpired:
        raise SourceCodeError(f"cannot {what}: git took more than {_TIMEOUT_S} s") from None
    if done.returncode:
        said = redact_line(done.stderr.decode(errors="replace"))
        raise SourceCodeError(f"cannot {what}: {said}; name a repository that has it by --repository")


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return {**kept, "GIT_TERMINAL_PROMPT": "0"}
