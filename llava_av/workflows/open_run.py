"""A run: what it was asked to do, under a key that is a function of it, and what its steps left."""

import datetime
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_av.checkpoints import base_digest
from llava_av.errors import UserError
from llava_av.experiments.completeness import RecordNeeds, require_record
from llava_av.experiments.records import ExperimentRecord, parse_record
from llava_av.provenance.source_code import CodeState, GitLineage
from llava_av.recipe import Recipe, current_names
from llava_av.storage import ObjectDamaged, ObjectMissing, ObjectStore
from llava_av.workflows.runtime.actor import actor

__all__ = [
    "TRAIN_COMMAND",
    "UNVERIFIED",
    "VERIFIED",
    "Run",
    "RunMissing",
    "Stopwatch",
    "open_run",
    "run_key",
    "stopwatch",
]

TRAIN_COMMAND = "train RECIPE --dataset NAME"
VERIFIED, UNVERIFIED = "verified", "not verified"
_KEY_DIGITS = 16
_RECORD, _PATCH, _PREDICTIONS = "experiment.md", "code.patch", "predictions.jsonl"
# Jobs that measure themselves too: what holds when a kill comes between a job's result and its duration.
_TIMED_BY_JOB = {"train": "train.json", "evaluate": "evaluation.json"}


class RunMissing(UserError):
    """There is no such run, or a step that must come first has not been done."""


@dataclass
class Stopwatch:
    """Wall time of a block, known when it has ended."""

    seconds: float = 0.0


@contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    """Time a block."""
    watch, started = Stopwatch(), time.monotonic()
    try:
        yield watch
    finally:
        watch.seconds = time.monotonic() - started


@dataclass(frozen=True, kw_only=True)
class Run:
    """What S3 holds of one run."""

    store: ObjectStore
    key: str

    def path(self, name: str) -> str:
        """Key of the object `name` of this run."""
        return f"runs/{self.key}/{name}"

    def find(self, name: str) -> dict[str, Any] | None:
        """The JSON object `name`, or None when no step has left it."""
        found: dict[str, Any] | None = self.store.find_json(self.path(name))
        return found

    def read(self, name: str, *, made_by: str) -> dict[str, Any]:
        """The JSON object `name`.

        Raises:
            RunMissing: it is not there; the text names the command that makes it.
        """
        found = self.find(name)
        if found is None:
            raise RunMissing(
                f"run {self.key} has no {name} at {self.store.endpoint}: do `llava-av {made_by}` first"
            )
        return found

    def write(self, name: str, value: dict[str, Any]) -> None:
        """Put the JSON object `name`."""
        self.store.put_json(self.path(name), value)

    def request(self) -> dict[str, Any]:
        """What the run was asked to do: recipe, dataset, experiment."""
        return self.read("request.json", made_by=TRAIN_COMMAND)

    def recipe(self) -> Recipe:
        """The recipe of the run."""
        return Recipe.model_validate(self.request()["recipe"])

    def code(self) -> CodeState:
        """The code that the run was opened with; its patch, if it has one, lies beside as code.patch."""
        kept = self.read("code.json", made_by=TRAIN_COMMAND)
        return CodeState(digest=kept["digest"], git=GitLineage.model_validate(kept["git"]), patch=None)

    def record(self) -> ExperimentRecord:
        """The experiment record as it was when the run was opened."""
        return parse_record(self.record_text(), Path(f"{self.request()['experiment']['id']}.md"), draft=True)

    def record_text(self) -> str:
        """Return the experiment record's Markdown."""
        return self.store.get_sealed(self.path(_RECORD)).decode()

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return the rows of a JSON Lines object that carries its own checksum; none if it does not exist."""
        try:
            content = self.store.get_sealed(self.path(name))
        except ObjectMissing:
            return []
        return [json.loads(line) for line in content.splitlines() if line]

    def predictions(self, at: str = "") -> list[dict[str, Any]]:
        """Return the answers behind an evaluation, which has their checksum; none if they do not exist.

        Args:
            at: Where below the run the evaluation is, ending in `/`; empty for what was held out.

        Raises:
            ObjectDamaged: they are not those of the evaluation.
        """
        key = self.path(f"{at}{_PREDICTIONS}")
        evaluation = self.find(f"{at}evaluation.json") or {}
        content = self._pinned_bytes(key, evaluation.get("predictions_sha256")) or b""
        return [json.loads(line) for line in content.splitlines() if line]

    def patch(self) -> bytes | None:
        """Return the patch from the commit to the run's code; None if there is none, or if it is lost.

        Raises:
            ObjectDamaged: it is not the patch that the run was opened with.
        """
        sha256 = self.code().git.patch_sha256
        return self._pinned_bytes(self.path(_PATCH), sha256) if sha256 else None

    def object_state(self, name: str) -> str:
        """Check an object: VERIFIED, UNVERIFIED if it has no checksum, or what is wrong with it."""
        try:
            if name == _PATCH:
                return UNVERIFIED if self.patch() is None else VERIFIED
            if name.endswith(_PREDICTIONS):
                at = name.removesuffix(_PREDICTIONS)
                self.predictions(at)
                pinned = "predictions_sha256" in (self.find(f"{at}evaluation.json") or {})
                return VERIFIED if pinned else UNVERIFIED
            key = self.path(name)
            return VERIFIED if self.store.unsealed(key, self.store.get_bytes(key)).verified else UNVERIFIED
        except ObjectDamaged as error:
            return str(error)

    def _pinned_bytes(self, key: str, sha256: str | None) -> bytes | None:
        """Return an object whose checksum another object has; None if it does not exist."""
        try:
            content = self.store.get_bytes(key)
        except ObjectMissing:
            return None
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise self.store.damaged(key)
        return content

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Keep the wall time of the block as the step's duration, when it ends well."""
        with stopwatch() as watch:
            yield
        self.keep_seconds(step, watch.seconds)

    def keep_seconds(self, step: str, seconds: float) -> None:
        """Put the duration of a step."""
        self.write(f"seconds/{step}.json", {"seconds": round(seconds, 3)})

    def seconds(self, steps: tuple[str, ...]) -> dict[str, float]:
        """Duration of each of `steps` that was timed, in seconds."""
        found = {step: self._timing(step) for step in steps}
        return {step: float(value["seconds"]) for step, value in found.items() if value is not None}

    def _timing(self, step: str) -> dict[str, Any] | None:
        timed = self.find(f"seconds/{step}.json")
        if timed is None and step in _TIMED_BY_JOB:
            return self.find(_TIMED_BY_JOB[step])
        return timed


def run_key(recipe: Recipe, dataset: dict[str, str], experiment: Mapping[str, Any], code: str) -> str:
    """The key of the run that does the same thing: 16 hex digits.

    Args:
        recipe: The whole recipe.
        dataset: `name` and `commit`.
        experiment: `id` and `sha256` of the experiment record: other expectations are another run, so that
            none is written after its result is known.
        code: Digest of the code.
    """
    record = f"{experiment['id']}@{experiment['sha256']}"
    parts = [recipe.identity_json(), f"{dataset['name']}@{dataset['commit']}", code, record]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:_KEY_DIGITS]


def open_run(
    store: ObjectStore,
    *,
    recipe: Recipe,
    dataset: dict[str, str],
    experiment: str,
    code: CodeState,
    needs: RecordNeeds = "parts",
) -> Run:
    """The run for this request; an equal request finds the same run.

    Code and record are kept as they are when the run is opened: that is what trains, and what is expected.

    Args:
        store: Where runs are kept.
        recipe: The whole recipe.
        dataset: `name` and `commit`.
        experiment: Id of an experiment record, or the path of one.
        code: The code that runs.
        needs: What the record may not lack; what else it lacks marks the run.

    Raises:
        ExperimentError: no such record, or one that lacks what is needed.
        CheckpointError: the recipe's base model is not there.
    """
    recipe = _pinned(recipe)
    path, record, lacks = require_record(experiment, needs)
    about: dict[str, Any] = {"id": record.id, "sha256": record.digest()}
    run = Run(store=store, key=run_key(recipe, dataset, about, code.digest))
    request = {
        "run": run.key,
        "recipe": recipe.model_dump(mode="json"),
        "dataset": dataset,
        "experiment": {**about, "incomplete": list(lacks)},
    }
    found = run.find("request.json")
    if found is not None and {**found, "recipe": current_names(found["recipe"])} == request:
        return run
    store.put_sealed(run.path(_RECORD), path.read_bytes())
    if code.patch is not None:
        store.put_bytes(run.path(_PATCH), code.patch)
    opened = {"by": actor(), "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    store.create_json(run.path("opened.json"), opened)
    run.write("code.json", {"digest": code.digest, "git": code.git.model_dump(mode="json")})
    run.write("request.json", request)
    return run


def _pinned(recipe: Recipe) -> Recipe:
    """The recipe with the digest of its base model, so that other weights are another run."""
    if recipe.model.base is None or recipe.model.base_digest is not None:
        return recipe
    return recipe.with_overrides({"model.base_digest": base_digest(recipe.model.base)})
