"""When an environment counts as that of a commit, and what is said of one that is another."""

from pathlib import Path

import pytest

from llava_av.provenance.environment import this_environment
from llava_av.provenance.source_code import CodeState, GitLineage
from llava_av.recipe import load_recipe
from llava_av.registry.lineage import Lineage, collect_lineage
from llava_av.workflows.reproduce import ReproductionError, _environment_differences


def trained_in(**changed: object) -> Lineage:
    environment = {**this_environment().model_dump(mode="json"), **changed}
    return collect_lineage(
        run="0" * 16,
        pipeline_run=None,
        dataset_name="clips",
        dataset_commit="d" * 64,
        recipe=load_recipe("quick"),
        checkpoint_uri="s3://llava-av/checkpoints/0/step-00000008",
        checkpoint_digest="a" * 64,
        manifest_sha256="b" * 64,
        experiment={"id": "dryrun", "sha256": "e" * 64, "incomplete": []},
        code=CodeState(
            digest="c" * 64, git=GitLineage(commit="f" * 40, dirty=False, patch_sha256=None), patch=None
        ),
        environment=environment,
    )


def locked(code: Path, version: str) -> Path:
    (code / "requirements").mkdir(parents=True)
    (code / "requirements" / "lock.txt").write_text(f"numpy=={version}\n")
    return code


def test_without_a_lock_it_is_refused_or_said(tmp_path: Path) -> None:
    with pytest.raises(ReproductionError, match=r"lock\.txt: the commit has no such file; make .* --any-env"):
        _environment_differences(trained_in(), tmp_path, any_environment=False)
    found = _environment_differences(trained_in(), tmp_path, any_environment=True)
    assert found == ("no requirements/lock.txt to verify packages with",)


def test_packages_that_are_not_the_locks_are_refused_or_said(tmp_path: Path) -> None:
    here = this_environment().packages
    code = locked(tmp_path / "other", "0.0.1")
    with pytest.raises(ReproductionError, match=rf"numpy {here['numpy']}, locked 0\.0\.1; make"):
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
