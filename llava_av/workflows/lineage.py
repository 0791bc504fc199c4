"""Everything that a model version came from and that came of it, gathered from MLflow and S3."""

from collections.abc import Iterator, Mapping
from typing import Any

from llava_av.datasets.commits import CommitError, read_commit
from llava_av.experiments.outcomes import RunOutcome
from llava_av.experiments.records import ExperimentError, experiments_folder, load_record
from llava_av.recipe import Recipe
from llava_av.registry.history import AliasHistory
from llava_av.registry.versions import RegisteredVersion, TamperedError, load_version, require_untouched
from llava_av.report.tree_diagram import Box
from llava_av.storage import ObjectDamaged, ObjectStore, map_parallel
from llava_av.workflows.runs import UNVERIFIED, VERIFIED, Run

__all__ = ["lineage_boxes", "lineage_record", "version_uri"]

_MOST_ANCESTORS = 20
_NOT_PINNED = "not pinned"


def version_uri(given: str) -> str:
    """`models:/NAME/VERSION` or `models:/NAME@ALIAS`, also where `models:/` was left out."""
    return given if given.startswith("models:/") else f"models:/{given}"


def lineage_record(store: ObjectStore, uri: str, *, contents: bool = False) -> dict[str, Any]:
    """The whole chain as JSON.

    Args:
        store: Where runs are.
        uri: `models:/NAME/VERSION` or `models:/NAME@ALIAS`.
        contents: Whether every file of the checkpoint is read and verified, too.

    Raises:
        MlflowError: no such version, or MLflow does not answer.
    """
    version = load_version(store, uri)
    lineage = version.lineage
    found: dict[str, Any] = {
        "version": {"name": version.name, "version": version.version, "aliases": list(version.aliases)},
        "moves": [
            move.line()
            for move in AliasHistory(store, version.name).moves()
            if version.version in (move.version, move.before)
        ],
        "lineage": lineage,
        "checkpoint_state": _checkpoint_state(store, version, contents=contents),
        "dataset_parents": _dataset_parents(store, lineage["dataset"]),
        "experiment_parents": _experiment_parents(lineage["experiment"]["id"]),
    }
    if version.run:
        found |= _of_run(Run(store=store, key=version.run), lineage)
    return found


def lineage_boxes(found: Mapping[str, Any]) -> tuple[Box, ...]:
    """What `lineage_record` gave, as a tree: what it came from, then what came of it."""
    return tuple(_boxes(found, found["lineage"]))


def _of_run(run: Run, lineage: Mapping[str, Any]) -> dict[str, Any]:
    outcome = run.find("outcome.json")
    train, evaluation = run.find("train.json"), run.find("evaluation.json")
    return {
        "train": {key: value for key, value in (train or {}).items() if key != "environment"} or None,
        "patch_state": _patch_state(run, lineage["git"]),
        "evaluation": {
            f"accuracy.{ablation}.{family}": {key: cell[key] for key in ("value", "low", "high", "n")}
            for ablation, families in (evaluation or {}).get("accuracy", {}).items()
            for family, cell in families.items()
        },
        "gate": run.find("gate.json"),
        "outcome": [check.outcome for check in RunOutcome.model_validate(outcome).checks] if outcome else [],
        "objects": _object_states(run),
        "reproductions": [
            run.store.get_json(info.key) for info in run.store.list(run.path("reproductions/"))
        ],
    }


def _checkpoint_state(store: ObjectStore, version: RegisteredVersion, *, contents: bool) -> str:
    try:
        require_untouched(store, version, contents=contents)
    except TamperedError as error:
        return str(error)
    if version.manifest_sha256 is None:
        return f"{_NOT_PINNED}: an earlier version registered it without its manifest's checksum"
    return "every file verified" if contents else "manifest verified"


def _patch_state(run: Run, git: Mapping[str, Any]) -> str:
    if not git.get("patch_sha256"):
        return "none"
    try:
        patch = run.patch()
    except ObjectDamaged as error:
        return f"altered: {error}"
    return "lost: it is not in the store any more" if patch is None else "verified"


def _object_states(run: Run) -> dict[str, Any]:
    """Return how many objects of the run match their checksums, which have none, and which are damaged."""
    names = [info.key.removeprefix(run.path("")) for info in run.store.list(run.path(""))]
    states = dict(zip(names, map_parallel(run.object_state, names), strict=True))
    return {
        "verified": list(states.values()).count(VERIFIED),
        "unverified": [name for name, state in states.items() if state == UNVERIFIED],
        "damaged": [state for state in states.values() if state not in (VERIFIED, UNVERIFIED)],
    }


def _dataset_parents(store: ObjectStore, dataset: Mapping[str, str]) -> list[str]:
    """Commits that the dataset's commit follows, newest first."""
    found: list[str] = []
    try:
        commit = read_commit(store, dataset["name"], dataset["commit"])
        while commit.parent is not None and len(found) < _MOST_ANCESTORS:
            found.append(commit.parent)
            commit = read_commit(store, dataset["name"], commit.parent)
    except CommitError as error:
        found.append(str(error))
    return found


def _experiment_parents(experiment: str) -> list[str]:
    found: list[str] = []
    try:
        _, record = load_record(experiment, experiments_folder(), draft=True)
        while record.parent is not None and record.parent not in found:
            found.append(record.parent)
            _, record = load_record(record.parent, experiments_folder(), draft=True)
    except ExperimentError:
        pass  # a record of one's own folder, or of code that is not here
    return found


def _boxes(found: Mapping[str, Any], lineage: Mapping[str, Any]) -> Iterator[Box]:
    version, checkpoint = found["version"], lineage["checkpoint"]
    aliases = ", ".join(version["aliases"]) or "no alias"
    yield Box(title=f"model {version['name']} version {version['version']}", lines=(aliases,), depth=0)
    checked = found["checkpoint_state"]
    state = "good" if checked.endswith("verified") else "open" if checked.startswith(_NOT_PINNED) else "bad"
    yield Box(
        title="checkpoint",
        lines=(checkpoint["uri"], f"digest {checkpoint['digest']}", found["checkpoint_state"]),
        depth=1,
        state=state,
    )
    yield _training_box(found, lineage)
    if "objects" in found:
        yield _objects_box(found["objects"])
    yield from _dataset_boxes(found, lineage["dataset"])
    yield from _code_boxes(found, lineage)
    recipe = Recipe.model_validate(lineage["recipe"])
    lines = (f"digest {recipe.digest()[:12]}…", f"seed {lineage['seed']}", f"{recipe.training.steps} steps")
    yield Box(title=f"recipe {recipe.name}", lines=lines, depth=3)
    yield _environment_box(lineage["environment"])
    yield from _experiment_boxes(found, lineage["experiment"])
    yield from _results(found)


def _training_box(found: Mapping[str, Any], lineage: Mapping[str, Any]) -> Box:
    train, job = found.get("train") or {}, lineage.get("job") or {}
    lines = [f"job {job['name']}" if job.get("name") else "on one machine, no PyTorchJob"]
    if job.get("pipeline_run"):
        lines.append(f"pipeline run {job['pipeline_run']}")
    if train:
        lines.append(f"{train['engine']}, {train['processes']} processes, {train['seconds']:.0f} s")
        lines.append(f"MLflow run {train.get('mlflow_run_id') or 'caught up at registration'}")
    return Box(title=f"run {lineage.get('run') or 'not recorded'}", lines=tuple(lines), depth=2)


def _objects_box(objects: Mapping[str, Any]) -> Box:
    unverified = objects["unverified"]
    lines = [f"without a checksum, not verified: {', '.join(unverified)}"] if unverified else []
    lines += [*objects["damaged"], f"{objects['verified']} verified"]
    state = "bad" if objects["damaged"] else "open" if unverified else "good"
    return Box(title="objects of the run", lines=tuple(lines), depth=3, state=state)


def _dataset_boxes(found: Mapping[str, Any], dataset: Mapping[str, str]) -> Iterator[Box]:
    yield Box(title=f"dataset {dataset['name']}", lines=(f"commit {dataset['commit']}",), depth=3)
    for depth, parent in enumerate(found["dataset_parents"], start=4):
        yield Box(title="its parent", lines=(f"commit {parent}",), depth=depth)


def _code_boxes(found: Mapping[str, Any], lineage: Mapping[str, Any]) -> Iterator[Box]:
    git = lineage["git"]
    lines = (f"code digest {lineage['code_digest'][:12]}…", "with a patch" if git["dirty"] else "clean")
    commit = git["commit"] or f"no commit: {git['note']}"
    yield Box(title=f"code {str(commit)[:40]}", lines=lines, depth=3)
    if git["patch_sha256"]:
        state = found.get("patch_state", "")
        lines = (f"sha256 {git['patch_sha256']}", state)
        yield Box(title="patch", lines=lines, depth=4, state="good" if state == "verified" else "bad")


def _environment_box(environment: Mapping[str, Any]) -> Box:
    lines = (
        f"image {environment['image'] or 'none'}",
        environment["platform"],
        f"{len(environment['packages'])} packages",
    )
    return Box(title=f"Python {environment['python']}", lines=lines, depth=3)


def _experiment_boxes(found: Mapping[str, Any], experiment: Mapping[str, Any]) -> Iterator[Box]:
    lacks = experiment.get("incomplete") or ()
    lines = [f"record sha256 {experiment['sha256'][:12]}…", *found.get("outcome", ())]
    lines += [f"incomplete when it was run: {text}" for text in lacks]
    state = "bad" if lacks else "plain"
    yield Box(title=f"experiment {experiment['id']}", lines=tuple(lines), depth=3, state=state)
    for depth, parent in enumerate(found["experiment_parents"], start=4):
        yield Box(title=f"follows {parent}", lines=(), depth=depth)


def _results(found: Mapping[str, Any]) -> Iterator[Box]:
    numbers = found.get("evaluation") or {}
    lines = tuple(
        f"{name} {cell['value']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}], n = {cell['n']}"
        for name, cell in numbers.items()
        if name.startswith("accuracy.av.")
    )
    yield Box(title="evaluation", lines=lines or ("none yet",), depth=1)
    gate = found.get("gate")
    if gate is not None:
        words = {True: ("passed", "good"), False: ("failed", "bad"), None: ("not run", "open")}
        word, state = words[gate["passed"]]
        yield Box(title="gate", lines=(*gate["reasons"], word), depth=2, state=state)
    if found["moves"]:
        yield Box(title="aliases", lines=tuple(found["moves"]), depth=2)
    for made in found.get("reproductions", ()):
        state = "good" if made["identical"] else "open" if made["within_intervals"] else "bad"
        yield Box(title="reproduction", lines=(made["date"], made["verdict"]), depth=2, state=state)
