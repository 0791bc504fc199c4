"""`llava-av evaluation`: tasks that models are evaluated on, and models compared on them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_av.cli.options import OutputDir
from llava_av.errors import UserError, printable
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER

if TYPE_CHECKING:
    from llava_av.workflows.compare_models import TaskComparison

__all__ = ["app"]

app = typer.Typer(
    help="Tasks that models are evaluated on, and models compared on them.", no_args_is_help=True
)

_TASK = """\
# A task of one's own: `llava-av evaluate MODEL --task {folder}/task.yaml --data {folder}`.
# Raise the version whenever anything here or in questions.jsonl changes what is asked.
name: my-task
version: 1
about: what it asks about, and where it comes from
reader: questions
files: questions.jsonl, and the media that it names
# letter: choices are lettered in the prompt, and named by letter in replies.
# choice: the one choice whose words stand in the reply. open: the reply is the answer.
rule: letter
prompt: |-
  {{question}}
  {{choices}}
  Answer with the letter of the right choice.
max_new_tokens: 16
"""
_QUESTIONS = (
    {
        "id": "1",
        "video": "clips/kitchen.mp4",
        "question": "What falls when the bell rings?",
        "choices": ["a cup", "a spoon"],
        "answer": "a cup",
        "family": "joint",
        "type": "event",
    },
    {
        "id": "2",
        "audio": "sounds/street.wav",
        "question": "What is heard?",
        "choices": ["a tram", "a dog"],
        "answer": "a dog",
        "family": "audio",
        "type": "source",
    },
)


@app.command()
def tasks() -> None:
    """List the tasks, with their version and how replies are read."""
    from llava_av.evaluation.tasks import load_task, task_names

    for name in task_names():
        task = load_task(name)
        print(f"{task.name} (version {task.version}, rule {task.rule})\n  {task.about}\n  data: {task.files}")


@app.command()
def check(
    task: Annotated[str, typer.Argument(help="Name of a task, or its YAML file.")],
    data: Annotated[Path, typer.Argument(help="Folder in the task's format.")],
) -> None:
    """Read a task's data as an evaluation does; prints what it would ask first."""
    from llava_av.evaluation.tasks import load_task, read_samples

    asks = load_task(task)
    samples = read_samples(asks, data)
    kinds = sorted({sample.kind for sample in samples})
    print(printable(f"{len(samples)} questions of {len(kinds)} kinds: {', '.join(kinds)}") + "\n")
    question, answer = (turn.value for turn in samples[0].conversations[:2])
    print(*map(printable, question.split("\n")), sep="\n", end="\n\n")
    print(printable(f"right: {answer}"))


@app.command()
def new(folder: Annotated[Path, typer.Argument(help="Folder to make.")]) -> None:
    """Make the template of a task of one's own: task.yaml and questions.jsonl."""
    if folder.exists():
        raise UserError(f"{folder} is there already; name a folder to make")
    folder.mkdir(parents=True)
    (folder / "task.yaml").write_text(_TASK.format(folder=folder), encoding="utf-8")
    lines = "".join(json.dumps(question) + "\n" for question in _QUESTIONS)
    (folder / "questions.jsonl").write_text(lines, encoding="utf-8")
    print(f"{folder}/task.yaml\n{folder}/questions.jsonl")


@app.command()
def compare(
    first: Annotated[str, typer.Argument(help="Run key, models:/NAME/VERSION, s3://… or a folder.")],
    second: Annotated[str, typer.Argument(help="The other model.")],
    task: Annotated[str | None, typer.Option(help="Task; the runs' own evaluation if not given.")] = None,
    output: Annotated[Path | None, typer.Option(help="File to write the comparison to, as JSON.")] = None,
    output_dir: OutputDir = DEFAULT_FOLDER,
) -> None:
    """Compare two evaluated models on the same questions: paired difference, interval and exact test."""
    from llava_av.cli.session import session
    from llava_av.workflows.compare_models import compare_models_step

    with session(output_dir, need_mlflow=any(name.startswith("models:/") for name in (first, second))):
        compared = compare_models_step(first, second, task)
    _show(compared)
    if output is not None:
        output.write_text(json.dumps(compared.to_json(), indent=2) + "\n", encoding="utf-8")


def _show(compared: "TaskComparison") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    title = f"{compared.task.name} version {compared.task.version}, first minus second"
    table = Table(title=title, title_justify="left")
    for heading in ("questions", "n", "clips", "first", "second", "difference (95 % interval)", "p"):
        table.add_column(heading)
    for name, cell in {"all": compared.paired.all, **compared.paired.kinds}.items():
        difference = cell.difference
        interval = f"{difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"
        shares = (f"{cell.first:.3f}", f"{cell.second:.3f}")
        counts = (str(cell.n), str(cell.clips))
        table.add_row(escape(printable(name)), *counts, *shares, interval, f"{cell.p:.3g}")
    console = Console()
    console.print(table)
    console.print("p: exact permutation of clips; by kind adjusted for their number (Holm)", highlight=False)
