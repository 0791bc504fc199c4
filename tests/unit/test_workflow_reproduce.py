"""Comparison of the environment with the lock file of a commit."""

from pathlib import Path

import pytest

from llava_av.provenance.environment import this_environment
from llava_av.runs import Lineage
from llava_av.workflows.reproduce import ReproductionError, _environment_differences
from tests.artifacts import sample


def trained_in(**changed: object) -> Lineage:
    environment = {**this_environment().model_dump(mode="json"), **changed}
    return sample(Lineage, environment=environment)


def locked(code: Path, version: str) -> Path:
    (code / "requirements").mkdir(parents=True)
    (code / "requirements" / "lock.txt").write_text(f"numpy=={version}\n")
    return code


def test_without_a_lock_it_is_refused_or_said(tmp_path: Path) -> None:
    with pytest.raises(
        ReproductionError, match=r"lock\.txt: the commit has no such file; create .* --any-env"
    ):
        _environment_differences(trained_in(), tmp_path, any_environment=False)
    found = _environment_differences(trained_in(), tmp_path, any_environment=True)
    assert found == ("no requirements/lock.txt to verify packages with",)


def test_packages_that_are_not_the_locks_are_refused_or_said(tmp_path: Path) -> None:
    here = this_environment().packages
    code = locked(tmp_path / "other", "0.0.1")
    with pytest.raises(ReproductionError, match=rf"numpy {here['numpy']}, locked 0\.0\.1; create"):
        _environment_differences(trained_in(), code, any_environment=False)
    then = trained_in(python="3.0.0", image="train@sha256:1", packages={**here, "numpy": "0.0.1"})
    assert _environment_differences(then, code, any_environment=True) == (
        f"Python 3.0.0 then, {this_environment().python} now",
        f"image train@sha256:1 then, {this_environment().image} now",
        f"numpy 0.0.1 then, {here['numpy']} now",
    )
    assert (
        _environment_differences(
            trained_in(), locked(tmp_path / "same", here["numpy"]), any_environment=False
        )
        == ()
    )
