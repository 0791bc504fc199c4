"""Restoring of code from commit and patch, and comparison of the environment with its lock file."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from llava_av.provenance.code_restoring import restore_code
from llava_av.provenance.environment import package_versions
from llava_av.provenance.locked_packages import different_packages, locked_versions, not_as_locked
from llava_av.provenance.source_code import CodeState, GitLineage, SourceCodeError, code_state
from tests.commands import ROOT


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "core.hooksPath=/dev/null")
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    (folder / "llava_av").mkdir(parents=True)
    (folder / "llava_av" / "a.py").write_text("A = 1\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    return folder


def restored(state: CodeState, checkout: Path, folder: Path) -> Path:
    return restore_code(folder, str(checkout), state.git, state.patch, digest=state.digest)


def test_a_clean_commit_is_restored(checkout: Path, tmp_path: Path) -> None:
    state = code_state(checkout)
    (checkout / "llava_av" / "a.py").write_text("A = 2\n")
    git(checkout, "commit", "--quiet", "-am", "second")
    folder = restored(state, checkout, tmp_path / "scratch")
    assert (folder / "llava_av" / "a.py").read_text() == "A = 1\n"
    assert (checkout / "llava_av" / "a.py").read_text() == "A = 2\n"


def test_uncommitted_changes_are_restored_by_their_patch(checkout: Path, tmp_path: Path) -> None:
    (checkout / "llava_av" / "a.py").write_text("A = 2\n")
    (checkout / "llava_av" / "b.py").write_text("B = 'ü'\n")
    state = code_state(checkout)
    git(checkout, "checkout", "--quiet", ".")
    (checkout / "llava_av" / "b.py").unlink()
    folder = restored(state, checkout, tmp_path / "scratch")
    assert (folder / "llava_av" / "b.py").read_text() == "B = 'ü'\n"
    assert code_state(folder).digest == state.digest


def test_unrestorable_code_is_reported(checkout: Path, tmp_path: Path) -> None:
    state = code_state(checkout)

    def refused(git_lineage: GitLineage, patch: bytes | None, digest: str, problem: str) -> None:
        with pytest.raises(SourceCodeError, match=problem) as caught:
            restore_code(tmp_path / problem[:9], str(checkout), git_lineage, patch, digest=digest)
        assert "\n" not in str(caught.value)

    clean = state.git
    none = GitLineage(commit=None, dirty=False, patch_sha256=None, note="git is not installed")
    refused(none, None, state.digest, "no git commit to check out: git is not installed")
    dirty = clean.model_copy(update={"dirty": True, "patch_sha256": "0" * 64})
    refused(dirty, b"diff", state.digest, "the stored patch does not match the lineage")
    refused(dirty, None, state.digest, "patch does not match the lineage")
    gone = clean.model_copy(update={"commit": "1" * 40})
    refused(gone, None, state.digest, "cannot find commit 1111")
    refused(clean, None, "2" * 64, "does not match the code that ran")
    broken = clean.model_copy(update={"dirty": True, "patch_sha256": hashlib.sha256(b"x").hexdigest()})
    refused(broken, b"x", state.digest, "cannot apply the stored patch")
    with pytest.raises(
        SourceCodeError, match=r"cannot clone .*name a repository that has it with --repository"
    ):
        restore_code(tmp_path / "z", str(tmp_path / "absent"), clean, None, digest=state.digest)


def test_packages_are_compared_with_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(
        "a-b==1.0 \\\n    --hash=sha256:00\n"
        "c[x]==2.0 ; sys_platform == 'linux'\nc==2.1 ; sys_platform == 'darwin'\n"
    )
    locked = locked_versions(lock)
    assert locked == {"a-b": {"1.0"}, "c": {"2.0", "2.1"}}
    assert not_as_locked({"a-b": "1.0", "c": "2.1", "pip": "9"}, locked) == ()
    assert not_as_locked({"a-b": "1.1", "c": "3"}, locked) == (
        "a-b 1.1, locked 1.0",
        "c 3, locked 2.0 or 2.1",
    )
    assert different_packages({"a": "1", "b": "1", "llava-av": "1"}, {"a": "2", "llava-av": "2"}) == (
        "a 1 then, 2 now",
        "b 1 then, absent now",
    )


def test_this_environment_is_that_of_the_lock() -> None:
    found = package_versions()
    locked = locked_versions(ROOT / "requirements" / "lock.txt")
    assert {"torch", "mlflow", "pydantic"} <= locked.keys() & found.keys()
    assert not_as_locked(found, locked) == ()


def test_copies_inside_setuptools_do_not_count() -> None:
    before = package_versions()
    import setuptools

    assert setuptools.__version__
    assert package_versions() == before
