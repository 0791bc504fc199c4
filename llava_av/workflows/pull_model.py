"""Download of a registered model's files."""

from pathlib import Path

from llava_av.inference.model_source import local_model_folder
from llava_av.model.files.folder_checks import require_empty
from llava_av.workflows.runtime.retry import retry_transient
from llava_av.workflows.runtime.target_folder import copy_folder, whole_folder
from llava_av.workflows.runtime.workspace import Workspace

__all__ = ["pull_model"]


@retry_transient
def pull_model(workspace: Workspace, source: str, target: Path) -> list[str]:
    """Copy the verified files of a model into a folder, and return their names.

    Args:
        workspace: Folder for fetched models.
        source: `models:/NAME/VERSION` or `models:/NAME@ALIAS`.
        target: Folder to create; must be empty if it exists.

    Raises:
        UserError: There is no such model, it is damaged, or the target is not empty or cannot be written.
    """
    require_empty(target)
    folder = local_model_folder(source, workspace.work)
    with whole_folder(target):
        return copy_folder(folder, target)
