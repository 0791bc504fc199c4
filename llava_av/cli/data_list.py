"""`llava-av data list`: the datasets of an output folder or bucket."""

from typing import TYPE_CHECKING, Any

from llava_av.cli.display import print_json, print_rows
from llava_av.cli.options import AsJson, OutputDir
from llava_av.cli.session import stored_objects
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER

if TYPE_CHECKING:
    from llava_av.datasets.commits import Commit
    from llava_av.storage import ObjectStore

__all__ = ["list_datasets"]


def list_datasets(as_json: AsJson = False, output_dir: OutputDir = DEFAULT_FOLDER) -> None:
    """List the datasets with their newest commits."""
    from llava_av.datasets.commit_names import dataset_names
    from llava_av.datasets.commits import find_commit

    with stored_objects(output_dir, "datasets") as store:
        found = [_described(store, find_commit(store, name)) for name in dataset_names(store)]
    if as_json:
        print_json(found)
        return
    rows = [(one["name"], one["commit"], _counts(one["splits"]), ", ".join(one["tags"])) for one in found]
    print_rows(("dataset", "newest commit", "samples", "tags"), rows)


def _described(store: "ObjectStore", commit: "Commit") -> dict[str, Any]:
    from llava_av.datasets.tags import list_tags

    return {
        "name": commit.name,
        "commit": commit.id,
        "splits": {split: entry.samples for split, entry in commit.manifest.splits.items()},
        "tags": [name for name, tag in list_tags(store, commit.name).items() if tag.commit == commit.id],
    }


def _counts(splits: dict[str, int]) -> str:
    return ", ".join(f"{split} {samples:,}" for split, samples in splits.items())
