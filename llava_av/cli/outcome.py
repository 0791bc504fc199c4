"""The last lines of a dry run: results, where things are, and how to ask the model."""

import json
import shlex
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from llava_av.steps.context import Workspace

__all__ = ["show_outcome"]


def show_outcome(console: Console, workspace: Workspace) -> int:
    """Print the results of the run whose summary.json lies in the workspace; 1 when its gate failed."""
    summary = json.loads((workspace.folder / "summary.json").read_text(encoding="utf-8"))
    console.print(_accuracy(summary["accuracy"]))
    console.print(_facts(summary))
    _print_places(console, workspace, summary)
    gate = summary["gate"]
    if gate["passed"] is False:
        console.print(f"gate failed: {'; '.join(gate['reasons'])}", style="bold red", highlight=False)
        return 1
    return 0


def _accuracy(accuracy: dict[str, dict[str, dict[str, Any]]]) -> Table:
    """Rows: what the model was given; columns: question families."""
    families = list(dict.fromkeys(family for row in accuracy.values() for family in row))
    table = Table(title="accuracy on held-out clips (95 % interval)", title_justify="left")
    table.add_column("given")
    for family in families:
        cell = next(row[family] for row in accuracy.values() if family in row)
        chance = "" if cell["chance"] is None else f", chance {cell['chance']:.2f}"
        table.add_column(f"{family} (n={cell['n']}{chance})")
    for ablation, row in accuracy.items():
        table.add_row(ablation.replace("_", " "), *(_cell(row.get(family)) for family in families))
    return table


def _cell(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "–"
    unparsed = f", {cell['unparsed']} unparsed" if cell["unparsed"] else ""
    return f"{cell['value']:.2f} ({cell['low']:.2f}–{cell['high']:.2f}{unparsed})"


def _facts(summary: dict[str, Any]) -> Table:
    table = Table(show_header=False, box=None)
    version = summary["model_version"]
    aliases = f" ({', '.join(version['aliases'])})" if version["aliases"] else ""
    gate = {True: "passed", False: "failed", None: "not run"}[summary["gate"]["passed"]]
    table.add_row("model", f"{version['name']} version {version['version']}{aliases}")
    table.add_row("gate", f"{gate}: {'; '.join(summary['gate']['reasons'])}".removesuffix(": "))
    table.add_row("dataset commit", summary["dataset_commit"])
    table.add_row("checkpoint digest", summary["checkpoint"]["digest"])
    if summary["quarantined"]:
        first = summary["quarantined"][0]
        table.add_row(
            "left out", f"{len(summary['quarantined'])}, such as {first['file']}: {first['reason']}"
        )
    table.add_row("seconds", ", ".join(f"{step} {value:.1f}" for step, value in summary["seconds"].items()))
    return table


def _print_places(console: Console, workspace: Workspace, summary: dict[str, Any]) -> None:
    folder = shlex.quote(_short(workspace.folder))
    clips = sorted((workspace.folder / "clips").glob("*.mp4"))
    clip = shlex.quote(_short(clips[0])) if clips else "clip.mp4"
    checkpoint = summary["checkpoint"]["uri"]
    lines = (
        f"report      {_short(workspace.folder / 'report.html')}",
        f"summary     {_short(workspace.folder / 'summary.json')}",
        f"MLflow      {_mlflow_place(workspace)}",
        f"checkpoint  {checkpoint}",
        "ask it      "
        f'llava-av chat {checkpoint} --video {clip} "What do you see and hear?" --output-dir {folder}',
    )
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _mlflow_place(workspace: Workspace) -> str:
    return f"llava-av services up --output-dir {shlex.quote(_short(workspace.folder))}  (opens its pages)"


def _short(path: Path) -> str:
    """`path` as one would type it here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
