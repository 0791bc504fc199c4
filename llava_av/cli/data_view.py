"""`llava-av data view`: a page with samples of a commit or folder."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_av.cli.data_options import PatternOption, SampleOption, SplitOption
from llava_av.cli.display import print_json
from llava_av.cli.options import AsJson, OutputDir
from llava_av.cli.session import stored_objects
from llava_av.plurals import count_of
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER, Workspace

if TYPE_CHECKING:
    from llava_av.datasets.contents import Selection
    from llava_av.workflows.view_dataset import View, ViewLimits

__all__ = ["view"]

_BYTES_PER_MB = 1_000_000


def view(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET", help="NAME, NAME@COMMIT or NAME@TAG; or a folder, such as ./clips."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Page to write (default: data-NAME.html in --output-dir)."),
    ] = None,
    split: SplitOption = "",
    pattern: PatternOption = "",
    sample: SampleOption = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Maximum number of samples.")] = 100,
    max_mb: Annotated[
        int, typer.Option(min=1, metavar="N", help="Maximum size of embedded media and previews in MB.")
    ] = 50,
    as_json: AsJson = False,
    output_dir: OutputDir = DEFAULT_FOLDER,
) -> None:
    """Write one HTML page with samples to filter, play and read; it loads nothing from the network."""
    from llava_av.datasets.contents import Selection
    from llava_av.workflows.view_dataset import ViewLimits

    selection = Selection(split=split, pattern=pattern, samples=frozenset(sample or ()))
    limits = ViewLimits(samples=limit, bytes=max_mb * _BYTES_PER_MB)
    found = _write_page(dataset, output, selection, limits, output_dir)
    if as_json:
        print_json({**vars(found), "page": str(found.page)})
        return
    samples = f"{found.samples} of {count_of(found.matching, 'sample')}"
    media = f"{found.embedded} of {count_of(found.files, 'media file')} embedded"
    print(f"{found.page}: {found.title}, {samples}, {media}")


def _write_page(
    dataset: str, output: Path | None, selection: "Selection", limits: "ViewLimits", output_dir: Path
) -> "View":
    from llava_av.workflows.view_dataset import view_commit, view_folder

    # The name of a dataset has no slash.
    if "/" not in dataset:
        page = output or output_dir / f"data-{dataset.partition('@')[0]}.html"
        with stored_objects(output_dir, dataset, progress=True) as store:
            return view_commit(store, dataset, page, selection, limits)
    folder = Path(dataset)
    page = output or output_dir / f"data-{folder.resolve().name}.html"
    workspace = Workspace(folder=output_dir.absolute())
    with _progress_without_servers():
        cache = workspace.file_cache if workspace.work.is_dir() else None
        return view_folder(folder, page, selection, limits, cache)


@contextlib.contextmanager
def _progress_without_servers() -> Iterator[None]:
    """Show progress on standard error; a folder needs no store."""
    from llava_av.cli.display import console_progress
    from llava_av.processes import PROGRESS_VARIABLE, set_variables

    with tempfile.TemporaryDirectory(prefix="llava-av-progress-") as work:
        variables = {PROGRESS_VARIABLE: str(Path(work) / "progress.jsonl")}
        with set_variables(variables), console_progress():
            yield
