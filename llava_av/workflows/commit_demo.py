"""Commit of the demonstration dataset."""

from llava_av.datasets.commits import Commit
from llava_av.datasets.committing import commit_dataset
from llava_av.datasets.demo import make_demo
from llava_av.processes import progress_reporter, report_progress
from llava_av.recipe import Recipe
from llava_av.storage import ObjectStore
from llava_av.workflows.commit_data import DEMO
from llava_av.workflows.commit_records import recording
from llava_av.workflows.runtime.workspace import Workspace

__all__ = ["commit_demo"]


def commit_demo(store: ObjectStore, workspace: Workspace, recipe: Recipe) -> Commit:
    """Create the demonstration dataset, unless it exists, and commit it.

    Its name contains everything that it depends on, so that runs with other seeds or sizes do not change its
    commit.
    """
    data = recipe.data
    name = f"{DEMO}-{data.demo_train_blocks}x{data.demo_held_out_blocks}-seed{recipe.seed}"
    root = workspace.work / name
    splits = make_demo(
        root,
        seed=recipe.seed,
        train_blocks=data.demo_train_blocks,
        held_out_blocks=data.demo_held_out_blocks,
        progress=lambda done, total: report_progress("data", done, total, "clips created"),
    )
    named = {str(split): samples for split, samples in splits.items()}
    return commit_dataset(
        store,
        name,
        root,
        named,
        (),
        before_head=recording(store),
        progress=progress_reporter("data", "files uploaded"),
    )
