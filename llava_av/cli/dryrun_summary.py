"""Summary of a run: results, paths, and a command that queries the model."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llava_av.errors import printable
from llava_av.registry.history import CHALLENGER
from llava_av.runs import Accuracy, ExpectedResult, Summary
from llava_av.runs.names import REPORT
from llava_av.vocabulary import Ablation, QuestionFamily, in_order
from llava_av.workflows.runtime.command_hints import chat_command, mlflow_hint, short_path
from llava_av.workflows.runtime.workspace import Workspace

__all__ = ["show_outcome"]


def show_outcome(console: Console, workspace: Workspace, *, judged: bool = True) -> int:
    """Print the results of the run whose summary.json is in the workspace, and return the exit code.

    It is 1 if the gate failed, or if it was not applied and an expectation was missed. It is 0 if the only
    reason is the champion of an earlier run: a model that became challenger meets every rule about itself.

    Args:
        console: Console to print to.
        workspace: Folder with summary.json.
        judged: False if the run applies neither gate nor record; the exit code is then 0.
    """
    text = (workspace.folder / Summary.NAME).read_text(encoding="utf-8")
    summary = Summary.model_validate_json(text)
    console.print(_accuracy(summary.accuracy))
    if judged:
        _print_expected(console, summary.expected)
    _print_facts(console, summary)
    _print_paths(console, workspace, summary)
    return _verdict(console, summary) if judged else 0


def _verdict(console: Console, summary: Summary) -> int:
    if summary.gate.passed is None:
        missed = [one.outcome for one in summary.expected if one.met is False]
        if missed:
            _print_last(console, f"expectations missed: {'; '.join(missed)}", "bold red")
        return 1 if missed else 0
    if summary.gate.passed:
        return 0
    reasons, version = "; ".join(summary.gate.reasons), summary.model_version
    if CHALLENGER in version.aliases:
        said = (
            f"{CHALLENGER}: version {version.version} of {version.name} meets every rule about itself, but "
            f"is not shown to be as good as the champion, which stays: {reasons}"
        )
        _print_last(console, said, "bold yellow")
        return 0
    _print_last(console, f"gate failed: {reasons}", "bold red")
    return 1


def _print_last(console: Console, text: str, style: str) -> None:
    console.print(printable(text), style=style, highlight=False, markup=False, soft_wrap=True)


def _print_expected(console: Console, expected: Sequence[ExpectedResult]) -> None:
    """Print each expectation of the record with the observed value, on a line of its own."""
    marks = {True: ("✓", "green"), False: ("✗", "red"), None: ("–", "yellow")}
    for one in expected:
        mark, style = marks[one.met]
        line = printable(f"{mark} {one.outcome}")
        console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)


def _accuracy(accuracy: Mapping[str, Mapping[str, Accuracy]]) -> Table:
    """Return a table with a row for each ablation and a column for each question family."""
    families = in_order((family for row in accuracy.values() for family in row), QuestionFamily)
    table = Table(title="accuracy on held-out clips (95 % interval)", title_justify="left")
    table.add_column("ablation")
    for family in families:
        cell = next(row[family] for row in accuracy.values() if family in row)
        chance = "" if cell.chance is None else f", chance {cell.chance:.2f}"
        table.add_column(escape(printable(f"{family} (n={cell.n}{chance})")))
    for ablation in in_order(accuracy, Ablation):
        row = accuracy[ablation]
        table.add_row(ablation.replace("_", " "), *(_cell(row.get(family)) for family in families))
    return table


def _cell(cell: Accuracy | None) -> str:
    if cell is None:
        return "–"
    unparsed = f", {cell.unparsed} unparsed" if cell.unparsed else ""
    return f"{cell.value:.2f} ({cell.low:.2f}–{cell.high:.2f}{unparsed})"


def _print_facts(console: Console, summary: Summary) -> None:
    """Print one line for each fact, without wrapping, so that digests can be copied."""
    version, gate = summary.model_version, summary.gate
    aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
    facts = {
        "model": f"{version.name} version {version.version}{aliases}",
        "gate": f"{gate.verdict}: {'; '.join(gate.reasons)}".removesuffix(": "),
        "dataset commit": summary.dataset_commit,
        "checkpoint digest": summary.checkpoint.digest,
    }
    if summary.quarantined:
        first = summary.quarantined[0]
        facts["left out"] = f"{len(summary.quarantined)}, such as {first.file}: {first.reason}"
    facts["seconds"] = ", ".join(f"{step} {value:.1f}" for step, value in summary.seconds.items())
    for name, fact in facts.items():
        console.print(f"{name:<18} {printable(fact)}", soft_wrap=True, highlight=False, markup=False)


def _print_paths(console: Console, workspace: Workspace, summary: Summary) -> None:
    checkpoint = summary.checkpoint.uri
    lines = (
        f"report      {short_path(workspace.folder / REPORT)}",
        f"all runs    {short_path(workspace.folder / 'index.html')}",
        f"summary     {short_path(workspace.folder / Summary.NAME)}",
        f"MLflow      {mlflow_hint(workspace)}",
        f"checkpoint  {checkpoint}",
        f"try it      {chat_command(workspace, checkpoint, summary.dataset_commit)}",
    )
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
