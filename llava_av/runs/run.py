"""A run: reading and writing of its objects, and the durations of its steps."""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from llava_av.errors import UserError
from llava_av.runs.artifact_base import Artifact, ArtifactError
from llava_av.runs.evaluation import EvaluationResult, Prediction
from llava_av.runs.names import EXPERIMENT_RECORD, METRICS, PATCH, PREDICTIONS, PROFILE, RUNS, stacks_name
from llava_av.runs.registration import Reproduction
from llava_av.runs.request import RunCode, RunRequest
from llava_av.runs.training import StepDuration, TrainingResult
from llava_av.storage import ObjectDamaged, ObjectMissing, ObjectStore

__all__ = ["UNVERIFIED", "VERIFIED", "Run", "RunMissing", "Stopwatch", "stopwatch"]

VERIFIED, UNVERIFIED = "verified", "not verified"
# Jobs that time themselves: what is read after a kill between a job's result and its duration.
_TIMED_BY_JOB: dict[str, type[TrainingResult] | type[EvaluationResult]] = {
    "train": TrainingResult,
    "evaluate": EvaluationResult,
}
_Object = TypeVar("_Object", bound=Artifact)


class RunMissing(UserError):
    """A run that does not exist, or that lacks the result of an earlier step."""


@dataclass
class Stopwatch:
    """Wall time of a block, set when the block ends."""

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
    """Objects of one run in S3."""

    store: ObjectStore
    id: str

    def path(self, name: str) -> str:
        """Return the key of an object of this run."""
        return f"{RUNS}{self.id}/{name}"

    def find(self, kind: type[_Object], at: str = "") -> _Object | None:
        """Return an object of the run, or None if no step has written it.

        Args:
            kind: Class of the object.
            at: Place below the run, ending in `/`, such as `evaluation_place` gives.

        Raises:
            ArtifactError: It does not have the form of its kind.
        """
        return self._parsed(kind, f"{at}{kind.NAME}")

    def read(self, kind: type[_Object], at: str = "", *, command: str = "") -> _Object:
        """Return an object of the run.

        Args:
            kind: Class of the object.
            at: Place below the run, ending in `/`.
            command: The `llava-av` command that writes it; that of its class if empty.

        Raises:
            RunMissing: It does not exist; the message names the command that writes it.
            ArtifactError: It does not have the form of its kind.
        """
        found = self.find(kind, at)
        if found is None:
            raise RunMissing(
                f"run {self.id} has no {at}{kind.NAME} at {self.store.endpoint}: "
                f"run `llava-av {command or kind.COMMAND.format(run=self.id)}` first"
            )
        return found

    def has(self, kind: type[Artifact], at: str = "") -> bool:
        """Return whether a step has written an object, without reading it."""
        return self.store.exists(self.path(f"{at}{kind.NAME}"))

    def write(self, value: Artifact, at: str = "") -> None:
        """Write an object of the run, in place of one that exists."""
        self.store.put_json(self.path(f"{at}{value.NAME}"), value.to_json())

    def delete(self, kind: type[Artifact]) -> None:
        """Delete an object of the run, if it exists."""
        self.store.delete(self.path(kind.NAME))

    def request(self) -> RunRequest:
        """Return the recipe, dataset and experiment of the run."""
        return self.read(RunRequest)

    def code(self) -> RunCode:
        """Return the code that the run was opened with."""
        return self.read(RunCode)

    def record_text(self) -> str:
        """Return the Markdown of the experiment record."""
        return self.store.get_sealed(self.path(EXPERIMENT_RECORD)).decode()

    def put_metrics(self, content: bytes) -> None:
        """Write the training's journal."""
        self.store.put_sealed(self.path(METRICS), content)

    def put_stacks(self, rank: int, text: str) -> None:
        """Write the stacks of a process that hung."""
        self.store.put_bytes(self.path(stacks_name(rank)), text.encode())

    def put_profile(self, file: Path) -> None:
        """Write a file of a profile."""
        self.store.put_file(self.path(f"{PROFILE}{file.name}"), file)

    def metrics_bytes(self) -> bytes:
        """Return the training's journal.

        Raises:
            ObjectMissing: It does not exist.
        """
        return self.store.get_sealed(self.path(METRICS))

    def metrics(self) -> list[dict[str, float]]:
        """Return the rows of the training's journal; none if it does not exist."""
        try:
            content = self.metrics_bytes()
        except ObjectMissing:
            return []
        return [json.loads(line) for line in content.splitlines() if line]

    def predictions(self, evaluation: EvaluationResult, at: str = "") -> tuple[Prediction, ...]:
        """Return the answers of an evaluation; none if they do not exist.

        Args:
            evaluation: The evaluation, which has their checksum.
            at: Place of the evaluation below the run, ending in `/`.

        Raises:
            ObjectDamaged: They are not those of the evaluation.
        """
        content = self._pinned(f"{at}{PREDICTIONS}", evaluation.predictions_sha256) or b""
        return tuple(Prediction.model_validate_json(line) for line in content.splitlines() if line)

    def patch(self) -> bytes | None:
        """Return the patch from the commit to the run's code; None if there is none, or if it is lost.

        Raises:
            ObjectDamaged: It is not the patch that the run was opened with.
        """
        sha256 = self.code().git.patch_sha256
        return self._pinned(PATCH, sha256) if sha256 else None

    def write_reproduction(self, value: Reproduction) -> None:
        """Write the result of reproducing the run's version."""
        self.store.put_json(self.path(Reproduction.NAME.format(run=value.run)), value.to_json())

    def reproductions(self, names: Sequence[str]) -> list[Reproduction]:
        """Return the reproductions among the names of objects of the run."""
        prefix = Reproduction.NAME.partition("{")[0]
        found = (self._parsed(Reproduction, name) for name in names if name.startswith(prefix))
        return [one for one in found if one is not None]

    def names(self, prefix: str = "") -> list[str]:
        """Return the names of all objects of the run that start with a prefix."""
        return [info.key.removeprefix(self.path("")) for info in self.store.list(self.path(prefix))]

    def object_state(self, name: str) -> str:
        """Check an object: VERIFIED, UNVERIFIED if it has no checksum, or the error if it is damaged."""
        try:
            if name == PATCH:
                return UNVERIFIED if self.patch() is None else VERIFIED
            if name.endswith(PREDICTIONS):
                evaluation = self.find(EvaluationResult, name.removesuffix(PREDICTIONS))
                pin = evaluation.predictions_sha256 if evaluation else None
                self._pinned(name, pin)
                return UNVERIFIED if pin is None else VERIFIED
            key = self.path(name)
            return VERIFIED if self.store.unsealed(key, self.store.get_bytes(key)).verified else UNVERIFIED
        except ObjectDamaged as error:
            return str(error)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Record the wall time of a block as the duration of a step, unless the block raises."""
        with stopwatch() as watch:
            yield
        self.record_seconds(step, watch.seconds)

    def record_seconds(self, step: str, seconds: float) -> None:
        """Write the duration of a step."""
        duration = StepDuration(seconds=round(seconds, 3))
        self.store.put_json(self.path(StepDuration.NAME.format(step=step)), duration.to_json())

    def seconds(self, steps: Sequence[str]) -> dict[str, float]:
        """Return the duration of each step that was timed, in seconds."""
        found = {step: self._seconds(step) for step in steps}
        return {step: value for step, value in found.items() if value is not None}

    def _seconds(self, step: str) -> float | None:
        timed = self._parsed(StepDuration, StepDuration.NAME.format(step=step))
        if timed is not None:
            return timed.seconds
        result = self.find(_TIMED_BY_JOB[step]) if step in _TIMED_BY_JOB else None
        return result.seconds if result is not None else None

    def _parsed(self, kind: type[_Object], name: str) -> _Object | None:
        key = self.path(name)
        value = self.store.find_json(key)
        if value is None:
            return None
        try:
            return kind.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            raise ArtifactError(
                f"{self.store.uri(key)} at {self.store.endpoint} is not a {kind.__name__} "
                f"(field {'.'.join(map(str, first['loc'])) or 'none'}: {first['msg']}): restore it from a "
                "backup, or repeat the step that wrote it"
            ) from None

    def _pinned(self, name: str, sha256: str | None) -> bytes | None:
        """Return an object whose checksum another object has; None if it does not exist."""
        key = self.path(name)
        try:
            content = self.store.get_bytes(key)
        except ObjectMissing:
            return None
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise self.store.damaged(key)
        return content
