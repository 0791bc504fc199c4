"""`llava-av evaluation`: evaluation tasks, and comparisons of models on them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_av.cli.display import print_json
from llava_av.cli.options import AsJson, OutputDir
from llava_av.errors import UserError, printable
from llava_av.plurals import count_of
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER

if TYPE_CHECKING:
    from llava_av.workflows.compare_models import TaskComparison

__all__ = ["app"]

app = typer.Typer(help="List and check evaluation tasks, and compare models on them.", no_args_is_help=True)

_TASK = """\
# Your own task: `llava-av evaluate MODEL --task {folder}/task.yaml --data {folder}`.
# Increase the version whenever a change here or in questions.jsonl changes the questions.
name: my-task
version: 1
about: topic and origin of the questions
reader: questions
files: questions.jsonl and its media
# letter: the prompt labels the choices with letters, and the reply names one.
# choice: the reply contains the words of exactly one choice. open: the reply is the answer.
rule: letter
prompt: |-
  {{question}}
  {{choices}}
  Answer with the letter of the correct choice.
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
        "audio": "audio/street.wav",
        "question": "What do you hear?",
        "choices": ["a tram", "a dog"],
        "answer": "a dog",
        "family": "audio",
        "type": "source",
    },
)


@app.command()
def tasks(as_json: AsJson = False) -> None:
    """List the tasks with their version and the rule that scores replies."""
    from llava_av.evaluation.tasks import load_task, task_names

    known = [load_task(name) for name in task_names()]
    if as_json:
        print_json([task.model_dump(mode="json") for task in known])
        return
    for task in known:
        print(f"{task.name} (version {task.version}, rule {task.rule})\n  {task.about}\n  data: {task.files}")


@app.command()
def check(
    task: Annotated[str, typer.Argument(help="Name of a task, or its YAML file.")],
    data: Annotated[Path, typer.Argument(help="Folder in the task's format.")],
    as_json: AsJson = False,
) -> None:
    """Read a task's data as an evaluation does, and print the first question."""
    from llava_av.evaluation.tasks import load_task, read_task_samples

    samples = read_task_samples(load_task(task), data)
    kinds = sorted({sample.kind for sample in samples})
    question, answer = (turn.value for turn in samples[0].conversations[:2])
    if as_json:
        print_json(
            {"questions": len(samples), "kinds": kinds, "first": {"question": question, "answer": answer}}
        )
        return
    print(
        printable(
            f"{count_of(len(samples), 'question')} of {count_of(len(kinds), 'kind')}: {', '.join(kinds)}"
        )
        + "\n"
    )
    print(*map(printable, question.split("\n")), sep="\n", end="\n\n")
    print(printable(f"answer: {answer}"))


@app.command()
def new(folder: Annotated[Path, typer.Argument(help="Folder to create.")], as_json: AsJson = False) -> None:
    """Create a template for your own task: task.yaml and questions.jsonl."""
    if folder.exists():
        raise UserError(f"{folder} already exists: name a new folder")
    folder.mkdir(parents=True)
    (folder / "task.yaml").write_text(_TASK.format(folder=folder), encoding="utf-8")
    lines = "".join(json.dumps(question) + "\n" for question in _QUESTIONS)
    (folder / "questions.jsonl").write_text(lines, encoding="utf-8")
    files = [f"{folder}/task.yaml", f"{folder}/questions.jsonl"]
    if as_json:
        print_json(files)
    else:
        print(*files, sep="\n")


@app.command()
def compare(
    first: Annotated[
        str, typer.Argument(metavar="A", help="Run ID, models:/NAME/VERSION, s3://… or a folder.")
    ],
    second: Annotated[str, typer.Argument(metavar="B", help="The other model.")],
    task: Annotated[str | None, typer.Option(help="Task (default: the runs' held-out samples).")] = None,
    output: Annotated[Path | None, typer.Option(help="JSON file to write the comparison to.")] = None,
    as_json: AsJson = False,
    output_dir: OutputDir = DEFAULT_FOLDER,
) -> None:
    """Compare two evaluated models on the same questions: A minus B, its interval and an exact test."""
    from llava_av.cli.session import session
    from llava_av.workflows.compare_models import compare_models_step

    with session(output_dir, need_mlflow=any(name.startswith("models:/") for name in (first, second))):
        compared = compare_models_step(first, second, task)
    if as_json:
        print_json(compared.to_json())
    else:
        _show(compared)
    if output is not None:
        output.write_text(json.dumps(compared.to_json(), indent=2) + "\n", encoding="utf-8")


def _show(compared: "TaskComparison") -> None:
    from rich.markup import escape
    from rich.table import Table

    from llava_av.cli.display import result_console

    paired = compared.paired
    title = f"{compared.task.name} version {compared.task.version}"
    table = Table(title=title, title_justify="left")
    for heading in ("questions", "n", "clips", "A", "B", "A minus B (95 % interval)", "p"):
        table.add_column(heading)
    for name, cell in {"all": paired.all, **paired.families, **paired.kinds}.items():
        difference = cell.difference
        interval = f"{difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"
        shares = (f"{cell.first:.3f}", f"{cell.second:.3f}")
        counts = (str(cell.n), str(cell.clips))
        table.add_row(escape(printable(name)), *counts, *shares, interval, f"{cell.p:.3g}")
    console = result_console()
    console.print(table)
    for letter, checkpoint in zip("AB", compared.checkpoints, strict=True):
        console.print(f"{letter}: {checkpoint.uri}", soft_wrap=True, highlight=False, markup=False)
    console.print("p: exact permutation test over clips; p for each kind is Holm-adjusted", highlight=False)
