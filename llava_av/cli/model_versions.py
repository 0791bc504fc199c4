"""`llava-av model list`, `show` and `pull`: registered model versions and their files."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llava_av.cli.display import print_json, print_rows, print_values
from llava_av.cli.options import AsJson, OutputDir, VersionArgument
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER

if TYPE_CHECKING:
    from llava_av.workflows.stored_runs import StoredRuns

__all__ = ["list_versions", "pull", "show"]


def list_versions(as_json: AsJson = False, output_dir: OutputDir = DEFAULT_FOLDER) -> None:
    """List the registered model versions, the newest first."""
    from llava_av.cli.session import stored_objects
    from llava_av.workflows.stored_runs import read_stored_runs

    with stored_objects(output_dir, "models") as store:
        found = _versions(read_stored_runs(store))
    if as_json:
        print_json(found)
        return
    print_rows(("model", "aliases", "run", "dataset", "accuracy"), map(_cells, found))


def _cells(version: dict[str, Any]) -> Iterator[str]:
    yield from (_text(version[name]) for name in ("model", "aliases", "run", "dataset"))
    accuracy = version["accuracy"]
    yield "" if accuracy is None else f"{accuracy:.3f} {version['family']}"


def _versions(stored: "StoredRuns") -> list[dict[str, Any]]:
    """Return each version once: a checkpoint that is registered again keeps its version."""
    found: dict[str, dict[str, Any]] = {}
    for one, row in zip(stored.runs, stored.rows({}), strict=True):
        if one.registered is not None:
            found[one.registered.uri] = {
                "model": one.registered.uri,
                "aliases": list(row.aliases),
                "run": row.run,
                "dataset": row.dataset,
                "accuracy": round(row.accuracy.value, 4) if row.accuracy else None,
                "family": row.family,
                "checkpoint": one.registered.checkpoint_uri,
                "digest": one.registered.checkpoint_digest,
            }
    return list(found.values())


def _text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else value or ""


def show(version: VersionArgument, as_json: AsJson = False, output_dir: OutputDir = DEFAULT_FOLDER) -> None:
    """Show a model version: its checkpoint, aliases, inputs and accuracies."""
    from llava_av.cli.session import require_state, session
    from llava_av.registry.versions import load_version
    from llava_av.runs import EvaluationResult, Run, named_datasets
    from llava_av.storage import ObjectStore
    from llava_av.workflows.evaluate import accuracy_metrics
    from llava_av.workflows.version_history import version_uri

    require_state(output_dir, version)
    with session(output_dir):
        store = ObjectStore.from_env()
        registered = load_version(store, version_uri(version))
        evaluation = Run(store=store, id=registered.run).find(EvaluationResult) if registered.run else None
    lineage = registered.lineage
    found: dict[str, Any] = {
        "model": registered.uri,
        "aliases": list(registered.aliases),
        "checkpoint": registered.checkpoint_uri,
        "digest": registered.checkpoint_digest,
        "run": registered.run,
        "recipe": lineage.recipe.name,
        "dataset": named_datasets(lineage.datasets),
        "accuracy": accuracy_metrics(evaluation) if evaluation else {},
    }
    if as_json:
        print_json(found)
        return
    accuracy = found.pop("accuracy")
    print_values({name: _text(value) for name, value in found.items()})
    print_values({name: f"{value:.4f}" for name, value in accuracy.items()})


def pull(
    version: VersionArgument,
    target: Annotated[Path, typer.Argument(help="Folder to create.")],
    as_json: AsJson = False,
    output_dir: OutputDir = DEFAULT_FOLDER,
) -> None:
    """Download the files of a model version byte for byte, and verify each of them.

    The folder can be `model.base` of a recipe. `model export` writes it for transformers.
    """
    from llava_av.cli.session import require_state, session
    from llava_av.workflows.pull_model import pull_model
    from llava_av.workflows.version_history import version_uri

    require_state(output_dir, version)
    with session(output_dir) as workspace:
        files = pull_model(workspace, version_uri(version), target)
    if as_json:
        print_json({"folder": str(target), "files": files})
    else:
        print(*(target / name for name in files), sep="\n")
