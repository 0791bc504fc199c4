"""Reproduction of a model version from its lineage alone, with a comparison of the results."""

import datetime
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from llava_av.errors import UserError
from llava_av.experiments.records import record_files
from llava_av.named_files import FileKind, named_folders
from llava_av.plurals import count_of
from llava_av.processes.guard import end_guarded, guarded_popen
from llava_av.provenance.code_restoring import restore_code
from llava_av.provenance.environment import this_environment
from llava_av.provenance.locked_packages import different_packages, locked_versions, not_as_locked
from llava_av.redaction import redact
from llava_av.registry.lineage_collection import missing_parts
from llava_av.registry.versions import LineageError, load_version, require_untouched
from llava_av.runs import (
    EvaluationResult,
    Lineage,
    Registration,
    Reproduction,
    Run,
    TrainingResult,
    named_datasets,
)
from llava_av.storage import ObjectStore
from llava_av.tracking.mirrored_records import tag_version
from llava_av.workflows.runtime.workspace import Workspace

__all__ = ["ReproductionError", "reproduce_step"]

_LOG = logging.getLogger(__name__)

_RUN = re.compile(r"^run ([0-9a-f]+)$", re.MULTILINE)
_LAST_LINES = 12


class ReproductionError(UserError):
    """A model version that cannot be reproduced here."""


def reproduce_step(
    workspace: Workspace,
    uri: str,
    *,
    repository: str | None = None,
    scratch: Path | None = None,
    any_environment: bool = False,
) -> Reproduction:
    """Check out code and data of a version, verify the environment, train again, and compare.

    The version's own code trains, as a process in a clone with its commit and patch. It writes to the same
    store under a different run ID, because its experiment record is titled as a reproduction.

    Args:
        workspace: Folder for logs.
        uri: `models:/NAME/VERSION` or `models:/NAME@ALIAS`.
        repository: Git repository with the commit; the checkout of the running code if None.
        scratch: Folder to work in, kept afterwards; a temporary one if None.
        any_environment: True to accept packages that differ from the lock file.

    Raises:
        MlflowError: The version does not exist, or MLflow does not answer.
        TamperedError: Its checkpoint is not the one that was registered.
        LineageError: Its lineage lacks a part.
        SourceCodeError: Its code cannot be restored.
        ReproductionError: The environment does not match the lock file, or the second run failed.
    """
    store = ObjectStore.from_env()
    version = load_version(store, uri)
    require_untouched(store, version)
    missing = missing_parts(version.lineage_json)
    lineage = version.lineage
    if missing or lineage.run is None:
        raise LineageError(f"{version.uri} cannot be reproduced: its lineage lacks {', '.join(missing)}")
    with _working_in(scratch) as folder:
        run = Run(store=store, id=lineage.run)
        code = restore_code(
            folder / "code",
            repository or str(Path(__file__).resolve().parents[2]),
            lineage.git,
            run.patch(),
            digest=lineage.code_digest,
        )
        _LOG.info("code: commit %s%s", lineage.git.commit, " with its patch" if lineage.git.dirty else "")
        differences = _environment_differences(lineage, code, any_environment=any_environment)
        found = count_of(len(differences), "difference")
        _LOG.info("environment: %s from the training environment", found)
        again = _run_again(folder, code, run, version)
        made = _compared(folder, code, version, run, again, differences)
    run.write_reproduction(made)
    tag_version(version.name, version.version, "reproduced", f"{made.date} on {made.host}: {made.verdict}")
    return made


@contextmanager
def _working_in(scratch: Path | None) -> Iterator[Path]:
    folder = scratch.absolute() if scratch else Path(tempfile.mkdtemp(prefix="llava-av-reproduce-"))
    if scratch is not None and folder.exists() and any(folder.iterdir()):
        raise ReproductionError(f"--scratch {scratch} is not empty; give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        if scratch is None:
            shutil.rmtree(folder, ignore_errors=True)


def _environment_differences(lineage: Lineage, code: Path, *, any_environment: bool) -> tuple[str, ...]:
    """Return differences from the training environment; require the lock file's packages by default."""
    now, then = this_environment(), lineage.environment
    lock = code / "requirements" / "lock.txt"
    if lock.is_file():
        doubts = not_as_locked(now.packages, locked_versions(lock))
    else:
        doubts = ("the commit has no such file",)
    if doubts and not any_environment:
        more = f" and {len(doubts) - 1} more" if len(doubts) > 1 else ""
        raise ReproductionError(
            f"cannot verify this environment against the commit's requirements/lock.txt: {doubts[0]}{more}; "
            "create the environment in a checkout of that commit and use its llava-av, or add "
            "--any-environment"
        )
    values = {"Python": (then.python, now.python), "platform": (then.platform, now.platform)}
    values["image"] = (str(then.image), str(now.image))
    others = (
        f"{name} {before} then, {after} now" for name, (before, after) in values.items() if before != after
    )
    unverified = () if lock.is_file() else ("no requirements/lock.txt to verify packages with",)
    return (*unverified, *others, *different_packages(then.packages, now.packages))


def _run_again(folder: Path, code: Path, run: Run, version: Registration) -> Run:
    """Train with the version's own code, and return the new run."""
    request = run.request()
    recipe = folder / "recipe.yaml"
    # As it was written: the version's own code may not know the fields of this one.
    recipe.write_text(yaml.safe_dump(request.recipe_json, sort_keys=False), encoding="utf-8")
    record = _record(folder, run, version)
    arguments = ["train", str(recipe), "--dataset", named_datasets(request.datasets)]
    output = _llava_av(folder, code, [*arguments, "--experiment", str(record)])
    key = _RUN.search(output)
    if key is None:
        raise ReproductionError(f"the version's own code did not print a run ID: {output[-300:]}")
    return Run(store=run.store, id=key[1])


def _record(folder: Path, run: Run, version: Registration) -> Path:
    """Write the experiment record with the title of a reproduction: another record gives another run ID."""
    records = folder / "experiments"
    records.mkdir()
    for known in reversed(named_folders(FileKind.EXPERIMENTS)):
        for file in record_files(known):
            shutil.copyfile(file, records / file.name)
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    title = f'title: "Reproduction of {version.name} version {version.version}, {now}"'
    path = records / f"{run.request().experiment.id}.md"
    path.write_text(
        re.sub(r"^title: .*$", title, run.record_text(), count=1, flags=re.MULTILINE), encoding="utf-8"
    )
    return path


def _llava_av(folder: Path, code: Path, arguments: Sequence[str]) -> str:
    """Run a command of the version's own code in a process, and return its output."""
    log = folder / f"{arguments[0]}.log"
    command = [sys.executable, "-m", "llava_av", *arguments, "--output-dir", str(folder / "out")]
    _LOG.info("%s with the version's own code …", arguments[0])
    with log.open("wb") as file:
        process = guarded_popen(
            command, env=_environment(code), cwd=folder, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            exit_code = process.wait()
        finally:
            end_guarded(process)
    output = redact(log.read_text(encoding="utf-8", errors="replace"))
    if exit_code:
        raise ReproductionError(
            f"`llava-av {arguments[0]}` of the version's code ended with exit code {exit_code}: "
            f"{' / '.join(output.splitlines()[-_LAST_LINES:])[-600:]}"
        )
    return output


def _environment(code: Path) -> dict[str, str]:
    """Return variables with which Python finds the version's own code before any other."""
    return {**os.environ, "PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"}


def _compared(
    folder: Path,
    code: Path,
    version: Registration,
    before: Run,
    again: Run,
    differences: tuple[str, ...],
) -> Reproduction:
    digest = again.read(TrainingResult).checkpoint.digest
    outside: list[str] = []
    compared = 0
    if digest != version.checkpoint_digest:
        evaluation = before.read(EvaluationResult)
        _llava_av(folder, code, ["evaluate", again.id])
        compared, outside = _outside(evaluation, again.read(EvaluationResult))
    return Reproduction(
        version=version.uri,
        run=again.id,
        date=datetime.datetime.now(datetime.UTC).date(),
        host=socket.gethostname(),
        digest_before=version.checkpoint_digest,
        digest_now=digest,
        outside=tuple(outside),
        compared=compared,
        differences=differences,
    )


def _outside(before: EvaluationResult, now: EvaluationResult) -> tuple[int, list[str]]:
    """Return the number of accuracies that both have, and those outside the interval of the first."""
    compared, found = 0, []
    for ablation, family, old in before.cells():
        name = f"accuracy.{ablation}.{family}"
        new = now.accuracy.get(ablation, {}).get(family)
        if new is None:
            found.append(f"{name} was not measured again")
            continue
        compared += 1
        if not old.low <= new.value <= old.high:
            found.append(
                f"{name} is {new.value:.3f}, registered {old.value:.3f} [{old.low:.3f}, {old.high:.3f}]"
            )
    return compared, found
