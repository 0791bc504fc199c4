"""`llava-av experiment compare`: inputs and results of two runs."""

from typing import TYPE_CHECKING, Annotated

import typer

from llava_av.cli.display import print_json, print_rows
from llava_av.cli.options import AsJson, OutputDir
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER

if TYPE_CHECKING:
    from llava_av.runs import ComparedNumber

__all__ = ["compare"]


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="ID of a record or of a run.")],
    second: Annotated[str, typer.Argument(metavar="B", help="ID of the record or run to compare it with.")],
    output_dir: OutputDir = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> None:
    """Compare the inputs and results of two runs, or of the newest runs of two experiments: A minus B."""
    from llava_av.cli.session import session
    from llava_av.storage import ObjectStore
    from llava_av.workflows.compare import compare_runs

    with session(output_dir, need_mlflow=False):
        compared = compare_runs(ObjectStore.from_env(), first, second)
    if as_json:
        rows = [_row_json(row) for row in compared.rows]
        print_json({"a": compared.run, "b": compared.baseline, "changes": compared.changes, "rows": rows})
        return
    print(f"A: run {compared.run}\nB: run {compared.baseline}")
    for change in compared.changes or ("the inputs do not differ",):
        print(change)
    cells = [
        (
            f"{row.ablation}.{row.family}",
            f"{row.second:.3f}",
            f"{row.first:.3f}",
            f"{row.value:+.3f}",
            f"{row.low:+.3f} to {row.high:+.3f}",
            "paired" if row.paired else "unpaired",
        )
        for row in compared.rows
    ]
    print_rows(("accuracy", "A", "B", "A minus B", "95 % interval", ""), cells)


def _row_json(row: "ComparedNumber") -> dict[str, object]:
    names = {"second": "a", "first": "b", "value": "a_minus_b"}
    return {names.get(name, name): value for name, value in row.model_dump(mode="json").items()}
