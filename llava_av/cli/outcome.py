"""The summary of a dry run: results, paths, and a command that queries the model."""

import json
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llava_av.errors import printable
from llava_av.evaluation.summary import FAMILIES
from llava_av.workflows.runtime.command_hints import chat_command, mlflow_hint, short_path
from llava_av.workflows.runtime.workspace import Workspace

__all__ = ["show_outcome"]

_ABLATIONS = ("av", "video_only", "audio_only", "text_only", "shuffled_audio")


def show_outcome(console: Console, workspace: Workspace) -> int:
    """Print the results in the workspace's summary.json; return 1 if the gate failed, else 0."""
    summary = json.loads((workspace.folder / "summary.json").read_text(encoding="utf-8"))
    console.print(_accuracy(summary["accuracy"]))
    console.print(_facts(summary))
    _print_paths(console, workspace, summary)
    gate = summary["gate"]
    if gate["passed"] is False:
        console.print(f"gate failed: {'; '.join(gate['reasons'])}", style="bold red", highlight=False)
        return 1
    return 0


def _accuracy(accuracy: dict[str, dict[str, dict[str, Any]]]) -> Table:
    """Return a table with a row per ablation and a column per question family."""
    families = _ordered({family for row in accuracy.values() for family in row}, FAMILIES)
    table = Table(title="accuracy on held-out clips (95 % interval)", title_justify="left")
    table.add_column("ablation")
    for family in families:
        cell = next(row[family] for row in accuracy.values() if family in row)
        chance = "" if cell["chance"] is None else f", chance {cell['chance']:.2f}"
        table.add_column(escape(printable(f"{family} (n={cell['n']}{chance})")))
    for ablation in _ordered(set(accuracy), _ABLATIONS):
        row = accuracy[ablation]
        table.add_row(ablation.replace("_", " "), *(_cell(row.get(family)) for family in families))
    return table


def _ordered(names: set[str], known: tuple[str, ...]) -> list[str]:
    return sorted(names, key=lambda name: (known.index(name) if name in known else len(known), name))


def _cell(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "–"
    unparsed = f", {cell['unparsed']} unparsed" if cell["unparsed"] else ""
    return f"{cell['value']:.2f} ({cell['low']:.2f}–{cell['high']:.2f}{unparsed})"


def _facts(summary: dict[str, Any]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column(overflow="fold")
    version = summary["model_version"]
    aliases = f" ({', '.join(version['aliases'])})" if version["aliases"] else ""
    gate = {True: "passed", False: "failed", None: "not run"}[summary["gate"]["passed"]]
    table.add_row("model", f"{version['name']} version {version['version']}{aliases}")
    table.add_row("gate", f"{gate}: {'; '.join(summary['gate']['reasons'])}".removesuffix(": "))
    table.add_row("dataset commit", summary["dataset_commit"])
    table.add_row("checkpoint digest", summary["checkpoint"]["digest"])
    if summary["quarantined"]:
        first = summary["quarantined"][0]
        such_as = printable(f"such as {first['file']}: {first['reason']}")
        table.add_row("left out", escape(f"{len(summary['quarantined'])}, {such_as}"))
    table.add_row("seconds", ", ".join(f"{step} {value:.1f}" for step, value in summary["seconds"].items()))
    return table


def _print_paths(console: Console, workspace: Workspace, summary: dict[str, Any]) -> None:
    checkpoint = summary["checkpoint"]["uri"]
    lines = (
        f"report      {short_path(workspace.folder / 'report.html')}",
        f"all runs    {short_path(workspace.folder / 'index.html')}",
        f"summary     {short_path(workspace.folder / 'summary.json')}",
        f"MLflow      {mlflow_hint(workspace)}",
        f"checkpoint  {checkpoint}",
        f"ask it      {chat_command(workspace, checkpoint, summary['dataset_commit'])}",
    )
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
