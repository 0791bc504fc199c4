"""Identity of the running code: its commit, the patch to it, and its digest."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from llava_av.provenance.source_code import (
    COMMIT_VARIABLE,
    CodeState,
    GitLineage,
    SourceCodeError,
    code_digest,
    code_state,
    require_code,
    require_commit,
)
from tests.lineage_samples import SHA, git

COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Create a repository like this one with one commit."""
    root = tmp_path / "checkout"
    for name, text in {
        "llava_av/__init__.py": "A = 1\n",
        "llava_av/deep/part.py": "B = 2\n",
        "pipelines/__init__.py": "",
        "README.md": "Hello\n",
        ".gitignore": "__pycache__/\n*.log\n",
    }.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    git(root.parent, "init", "--quiet", str(root))
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "Start")
    return root


def applied(checkout: Path, state: CodeState, folder: Path) -> dict[str, bytes]:
    """Files of the commit with the patch on it."""
    git(checkout, "clone", "--quiet", str(checkout), str(folder))
    if state.patch is not None:
        (folder.parent / "code.patch").write_bytes(state.patch)
        git(folder, "apply", "--whitespace=nowarn", str(folder.parent / "code.patch"))
    return contents(folder)


def contents(root: Path) -> dict[str, bytes]:
    files = (file for file in root.rglob("*") if file.is_file() and ".git" not in file.parts)
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in files}


def test_a_clean_checkout_is_its_commit(checkout: Path) -> None:
    state = code_state(checkout)
    assert state.git == GitLineage(commit=git(checkout, "rev-parse", "HEAD"), dirty=False, patch_sha256=None)
    assert state.patch is None
    assert state.digest == code_digest(checkout)


def test_code_that_is_not_of_the_commit_asked_for_is_refused(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    require_commit(code_state(checkout), commit)
    with pytest.raises(SourceCodeError, match=rf"of commit {'0' * 40}, but runs from {commit}; use"):
        require_commit(code_state(checkout), "0" * 40)
    (checkout / "llava_av/__init__.py").write_text("A = 4\n")
    with pytest.raises(SourceCodeError, match=f"but runs from {commit}, changed; use images of"):
        require_commit(code_state(checkout), commit)


def test_code_that_knows_no_commit_is_refused_where_one_is_asked_for(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(checkout / ".git")
    monkeypatch.setenv("LLAVA_AV_COMMIT", f"{'a' * 40}-modified")
    with pytest.raises(SourceCodeError, match=rf"but runs from unknown \(the code was .* {'a' * 40}\); use"):
        require_commit(code_state(checkout), "a" * 40)


def test_the_patch_makes_the_commit_the_code_that_ran(checkout: Path, tmp_path: Path) -> None:
    (checkout / "llava_av/__init__.py").write_bytes(b"A = 3\r\nno newline at the end")
    (checkout / "llava_av/deep/part.py").unlink()
    (checkout / "README.md").write_text("Changed\n")
    (checkout / "pipelines/staged new.py").write_text("C = 1\n")
    git(checkout, "add", "pipelines")
    (checkout / "pipelines/staged new.py").write_text("C = 2\n")
    (checkout / "recipes").mkdir()
    (checkout / "recipes/größe [1].yaml").write_text("name: x\n")
    (checkout / "experiments").mkdir()
    (checkout / "experiments/picture.png").write_bytes(bytes(range(256)))
    state = code_state(checkout)
    assert state.patch is not None
    assert state.git.dirty
    assert state.git.patch_sha256 == hashlib.sha256(state.patch).hexdigest()
    assert applied(checkout, state, tmp_path / "copy") == contents(checkout)
    assert code_state(checkout) == state


def test_the_patch_leaves_out_what_git_ignores_and_foreign_folders(checkout: Path) -> None:
    (checkout / "llava_av/__pycache__").mkdir()
    (checkout / "llava_av/__pycache__/x.pyc").write_bytes(b"x")
    (checkout / "llava_av/run.log").write_text("x")
    (checkout / "outputs").mkdir()
    (checkout / "outputs/secret.txt").write_text("x")
    assert code_state(checkout).patch is None


def test_large_untracked_files_are_refused_and_the_largest_is_named(checkout: Path) -> None:
    (checkout / "recipes").mkdir()
    for name, mebibytes in (("small.yaml", 10), ("large.bin", 23)):
        with (checkout / "recipes" / name).open("wb") as file:
            file.truncate(mebibytes << 20)
    with pytest.raises(SourceCodeError, match=r"have 33 MiB, but .* at most 32 MiB .*is recipes/large\.bin$"):
        code_state(checkout)
    (checkout / ".git/info/exclude").write_text("*.bin\n")
    git(checkout, "add", "recipes/small.yaml")
    assert code_state(checkout).git.dirty


def test_the_checkout_stays_as_it_was(checkout: Path) -> None:
    (checkout / "llava_av/new.py").write_text("N = 1\n")
    (checkout / "llava_av/__init__.py").write_text("A = 5\n")

    def state_of_git() -> tuple[str, set[str], bytes]:
        objects = {str(file) for file in (checkout / ".git/objects").rglob("*") if file.is_file()}
        return git(checkout, "status", "--porcelain"), objects, (checkout / ".git/index").read_bytes()

    before = state_of_git()
    assert code_state(checkout).git.dirty
    assert state_of_git() == before


def test_settings_and_variables_of_the_user_do_not_change_the_patch(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkout / "llava_av/__init__.py").write_text("A = 6\n")
    plain = code_state(checkout)
    for key, value in {
        "diff.noprefix": "true",
        "diff.external": "false",
        "color.ui": "always",
        "diff.renames": "copies",
    }.items():
        git(checkout, "config", key, value)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "no-index"))
    assert code_state(checkout) == plain


def test_a_linked_worktree_is_a_checkout_of_its_own(checkout: Path, tmp_path: Path) -> None:
    git(checkout, "worktree", "add", "--quiet", str(tmp_path / "second"))
    (tmp_path / "second/llava_av/new.py").write_text("N = 1\n")
    state = code_state(tmp_path / "second")
    assert state.git.commit == git(checkout, "rev-parse", "HEAD")
    assert b"llava_av/new.py" in (state.patch or b"")


@pytest.fixture(autouse=True)
def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variable, wherever the tests run."""
    monkeypatch.delenv(COMMIT_VARIABLE, raising=False)


def test_outside_a_checkout_there_is_no_commit_and_it_says_so(tmp_path: Path) -> None:
    state = code_state(tmp_path)
    assert state.git.commit is None
    assert state.git.note == "the code does not run from its own git checkout"
    assert (state.patch, state.git.dirty, state.git.patch_sha256) == (None, False, None)


def test_a_repository_around_the_code_is_not_the_codes(checkout: Path) -> None:
    site_packages = checkout / ".venv/site-packages"
    site_packages.mkdir(parents=True)
    assert code_state(site_packages).git.commit is None


def test_without_git_or_commit_it_says_so(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init", "--quiet", str(tmp_path / "empty"))
    assert code_state(tmp_path / "empty").git.note == "the checkout has no commit yet"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_state(checkout).git.note == "git is not installed"


def test_without_a_checkout_the_image_tells_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(COMMIT_VARIABLE, COMMIT)
    told = CodeState(
        digest=code_digest(tmp_path),
        git=GitLineage(commit=COMMIT, dirty=False, patch_sha256=None),
        patch=None,
    )
    assert code_state(tmp_path) == told
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_state(tmp_path) == told


def test_an_image_of_modified_code_has_no_commit_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(COMMIT_VARIABLE, f"{COMMIT}-modified")
    state = code_state(tmp_path)
    assert (state.git.commit, state.git.dirty, state.patch) == (None, False, None)
    assert state.git.note == f"the code was built from a checkout that differed from commit {COMMIT}"


def test_a_checkout_knows_better_than_the_variable(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMIT_VARIABLE, COMMIT)
    assert code_state(checkout).git.commit == git(checkout, "rev-parse", "HEAD")


@pytest.mark.parametrize("told", ["v1.0", "0123456789ab", COMMIT.upper(), f"{COMMIT}-modified-"])
def test_a_variable_that_is_no_commit_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    monkeypatch.setenv(COMMIT_VARIABLE, told)
    with pytest.raises(SourceCodeError, match=f"LLAVA_AV_COMMIT is '{told}', not a git commit"):
        code_state(tmp_path)


def test_a_broken_checkout_is_an_error(checkout: Path) -> None:
    (checkout / ".git/index").write_bytes(b"broken")
    with pytest.raises(SourceCodeError, match=r"git cannot compare .* with its commit"):
        code_state(checkout)


def test_this_code_has_a_state() -> None:
    state = code_state()
    assert state.digest == code_digest()
    assert (state.git.commit is None) == (state.git.note is not None)


def test_the_digest_is_of_python_files_and_their_places(tmp_path: Path) -> None:
    def digest(files: dict[str, str]) -> str:
        root = tmp_path / hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        return code_digest(root)

    plain = {"llava_av/a.py": "x", "llava_av/b/c.py": "y", "pipelines/d.py": "z"}
    assert digest(plain) == digest({**plain, "llava_av/notes.txt": "?", "tests/t.py": "?"})
    others = [
        {**plain, "llava_av/a.py": "x2"},
        {"llava_av/e.py": "x", "llava_av/b/c.py": "y", "pipelines/d.py": "z"},
        {"llava_av/a.py": "y", "llava_av/b/c.py": "x", "pipelines/d.py": "z"},
        {"llava_av/a.py": "x", "llava_av/b/c.py": "y"},
    ]
    assert len({digest(plain), *map(digest, others)}) == 5


def test_code_of_another_commit_is_refused() -> None:
    require_code(code_digest())
    with pytest.raises(SourceCodeError, match="use images of one commit"):
        require_code(SHA)


def test_the_variables_of_git_are_left_alone(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    code_state(checkout)
    assert os.environ["GIT_DIR"] == "/nowhere"
