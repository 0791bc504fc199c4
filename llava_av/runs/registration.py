"""Objects that registration, the gate and the outcome write."""

import datetime
import json
import re
from functools import cached_property
from typing import Any, ClassVar

from pydantic import Field, JsonValue, computed_field

from llava_av.runs.artifact_base import Artifact, ArtifactPart
from llava_av.runs.checks import Check, Over
from llava_av.runs.lineage import Lineage
from llava_av.vocabulary import GateVerdict

__all__ = [
    "Change",
    "ComparedNumber",
    "Comparisons",
    "GateDecision",
    "ModelComparison",
    "PromotionStart",
    "Registration",
    "Reproduction",
    "RunOutcome",
    "run_of",
]

_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_RUN_OF_CHECKPOINT = re.compile(r"s3://[^/]+/checkpoints/([^/]+)/step-\d+/?")


def run_of(run: object, checkpoint_uri: str) -> str | None:
    """Return the run ID that a lineage record names, else that of the checkpoint's address, else None."""
    found = _RUN_OF_CHECKPOINT.fullmatch(checkpoint_uri)
    named = run or (found and found[1])
    return named if isinstance(named, str) and _RUN.fullmatch(named) else None


class Registration(Artifact):
    """register.json: the model version of a run."""

    NAME: ClassVar[str] = "register.json"
    COMMAND: ClassVar[str] = "register {run}"

    name: str
    version: str
    """Number of the version, counted from 1."""
    aliases: tuple[str, ...]
    """Aliases of the version, as the record of moves in S3 has them."""
    lineage_json: dict[str, JsonValue] = Field(alias="lineage")
    """Lineage record as registered. It is compared with MLflow's copy, so no field is added."""

    @cached_property
    def lineage(self) -> Lineage:
        """Return the lineage record."""
        return Lineage.model_validate(self.lineage_json)

    @property
    def run(self) -> str | None:
        """Return the run ID; None for a checkpoint that no run made."""
        return run_of(self.lineage.run, self.checkpoint_uri)

    @property
    def uri(self) -> str:
        """Return `models:/NAME/VERSION`."""
        return f"models:/{self.name}/{self.version}"

    @property
    def checkpoint_uri(self) -> str:
        """Return `s3://…` of the checkpoint."""
        return self.lineage.checkpoint.uri

    @property
    def checkpoint_digest(self) -> str:
        """Return the digest of the checkpoint's state."""
        return self.lineage.checkpoint.digest

    @property
    def manifest_sha256(self) -> str | None:
        """Return the digest of the checkpoint's manifest; None for a version that is older than pins."""
        return self.lineage.checkpoint.manifest_sha256


class PromotionStart(Artifact):
    """promotion.json: exists while a promotion is under way."""

    NAME: ClassVar[str] = "promotion.json"
    COMMAND: ClassVar[str] = "promote {run}"

    champion: str | None
    """Previous champion's version."""


class GateDecision(Artifact):
    """gate.json: the decision of the gate and the aliases that moved."""

    NAME: ClassVar[str] = "gate.json"
    COMMAND: ClassVar[str] = "promote {run}"

    passed: bool | None
    """None if the gate was not run."""
    reasons: tuple[str, ...] = ()
    """Rules that failed, each a sentence with its numbers, or the reason why the gate was not run."""
    moved: tuple[str, ...] = ()
    """Aliases that moved to the version."""
    expected: tuple[Check, ...] = ()
    """Expectations of the experiment record."""
    rules: tuple[Check, ...] = ()
    """Rules of the gate, without those that were skipped."""
    before: str | None = None
    """Previous champion's version; None if there was none."""
    override: bool = False
    """True if the version became champion although the gate did not pass."""

    @property
    def verdict(self) -> GateVerdict:
        """Return `passed`, `failed` or `not run`."""
        return GateVerdict.of(self.passed)


class Change(ArtifactPart):
    """A value that differs between two runs."""

    what: str
    """Dotted path in the recipe, `dataset`, or `code`."""
    before: Any
    """Value of the parent; also None if the parent has no such field."""
    after: Any

    def line(self) -> str:
        """Return for example `training.steps: 1100 → 400`, with both values as YAML in code spans."""
        return f"`{self.what}`: `{_short(self.before)}` → `{_short(self.after)}`"


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = text.replace("`", "'")
    return text if len(text) <= 80 else text[:79] + "…"


class RunOutcome(Artifact):
    """outcome.json, also experiments/<id>/<run>.json: observed values with the record's expectations."""

    NAME: ClassVar[str] = "outcome.json"
    COMMAND: ClassVar[str] = "evaluate {run}"

    run: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    """Run ID."""
    date: datetime.date
    seed: int
    dataset_commit: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    git_commit: str | None = Field(pattern=r"^[0-9a-f]+$")
    """None outside a checkout."""
    git_dirty: bool
    """True if the code differed from the commit."""
    checks: tuple[Check, ...]
    """Expectations of the record with the observed values."""
    recipe: str = ""
    """Name of the recipe."""
    changes: tuple[Change, ...] = ()
    """Differences from the run of the parent experiment that it was compared with."""
    incomplete: tuple[str, ...] = ()
    """Parts that the record lacked when the run was opened."""
    note: str = ""
    """A remark for readers, for example that the run was a quick one."""


class ComparedNumber(ArtifactPart):
    """One accuracy of two models."""

    ablation: str
    family: str
    first: float
    """Value of the baseline."""
    second: float
    """Value of this model."""
    value: float
    """Second value minus the first."""
    low: float
    """Lower end of the 95 % interval of `value`."""
    high: float
    paired: bool
    """True if both answered the same questions, so that the interval is paired."""


class ModelComparison(ArtifactPart):
    """Comparison of this model with a baseline."""

    over: Over
    label: str
    """Name of the baseline, such as `version 3`."""
    rows: tuple[ComparedNumber, ...] = ()


class Comparisons(Artifact):
    """comparisons.json: comparison of the model with its baselines."""

    NAME: ClassVar[str] = "comparisons.json"
    COMMAND: ClassVar[str] = "evaluate {run}"

    comparisons: tuple[ModelComparison, ...] = ()


class Reproduction(Artifact):
    """reproductions/<run>.json of the original run: the result of training a version again."""

    NAME: ClassVar[str] = "reproductions/{run}.json"
    COMMAND: ClassVar[str] = "reproduce VERSION"

    version: str
    """`models:/NAME/VERSION`."""
    run: str
    """ID of the second run."""
    date: datetime.date
    host: str
    digest_before: str
    """Digest of the registered checkpoint."""
    digest_now: str
    outside: tuple[str, ...]
    """Accuracies outside the interval of the registered model, a sentence each; empty for equal digests."""
    compared: int
    """Number of accuracies that were compared; 0 for equal digests, which need no comparison."""
    differences: tuple[str, ...]
    """Differences of the second run's environment: packages, Python, platform, image."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def identical(self) -> bool:
        """Return whether both checkpoints have the same state, bit for bit."""
        return self.digest_before == self.digest_now

    @computed_field  # type: ignore[prop-decorator]
    @property
    def within_intervals(self) -> bool:
        """Return whether every accuracy of the second run is in the 95 % interval of the first."""
        return self.identical or (self.compared > 0 and not self.outside)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def verdict(self) -> str:
        """Return the result in one line."""
        if self.identical:
            return f"identical: checkpoint digest {self.digest_now}"
        what = f"another digest ({self.digest_now[:12]}…, not {self.digest_before[:12]}…)"
        if self.within_intervals:
            return f"{what}; all {self.compared} accuracies within the registered 95 % intervals"
        return (
            f"{what}; {len(self.outside)} of {self.compared} accuracies outside the registered 95 % intervals"
        )

    def lines(self) -> list[str]:
        """Return the whole result for a terminal."""
        about = [f"different here: {text}" for text in self.differences]
        return [f"{self.version} reproduced as run {self.run}", *self.outside, *about, self.verdict]
