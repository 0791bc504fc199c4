"""Start, options and errors of the command line."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from llava_av import __version__
from llava_av.cli import version
from llava_av.cli.app import app, main
from llava_av.cli.options import chosen_recipe, chosen_target
from llava_av.errors import UserError
from llava_av.experiments.authoring import Draft, new_record
from llava_av.experiments.records import OBSERVED_END
from llava_av.launch import load_profile
from llava_av.provenance.source_code import COMMIT_VARIABLE
from llava_av.recipe import RecipeError
from llava_av.workflows.runtime.job_target import LOCAL_TARGET

# Table of one run in a record.
SEEN = f"""| Run | Date | Seed | Dataset | Code | Expected and observed |
{"| --- " * 6}|
| `0123` | 2026-11-02 | 0 | `c0ffee` | no commit | loss.av.joint at most 1.00: 0.20, met by 0.80 |
"""
HEAVY = ("torch", "transformers", "mlflow", "kfp", "av", "matplotlib", "numpy", "minio", "pydantic")


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; sys.argv = ['llava-av', '--help']\n"
        "from llava_av.cli import main\n"
        "try: main()\n"
        f"finally: print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    for command in ("dryrun", "services", "data", "train", "register", "evaluate", "promote", "report"):
        assert command in done.stdout


@pytest.mark.parametrize("command", [[], ["train"], ["data"], ["data", "commit"]], ids=" ".join)
def test_help_has_a_short_name(command: list[str]) -> None:
    short, long = (CliRunner().invoke(app, [*command, name]) for name in ("-h", "--help"))
    assert short.exit_code == 0
    assert short.output == long.output


def test_each_command_is_in_a_group_of_the_help() -> None:
    top = get_command(app)
    assert isinstance(top, TyperGroup)
    groups = {command.rich_help_panel for command in top.commands.values()}  # type: ignore[attr-defined]
    shown = CliRunner().invoke(app, ["--help"]).output
    assert len(groups) == 5
    for group in groups:
        assert f"─ {group} ─" in shown


def test_shells_complete_commands() -> None:
    variables = {"_LLAVA_AV_COMPLETE": "complete_bash", "COMP_WORDS": "llava-av do", "COMP_CWORD": "1"}
    command = [Path(sys.executable).with_name("llava-av")]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["doctor"]


def test_help_takes_less_than_a_second_of_processor_time() -> None:
    before = _child_seconds()
    subprocess.run([sys.executable, "-m", "llava_av", "--help"], capture_output=True, check=True)
    assert _child_seconds() - before < 1.0


def _child_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("0123456789" * 4, " (git 012345678901)"),
        ("0123456789" * 4 + "-modified", " (git 012345678901, modified)"),
        ("", ""),
        (None, ""),
    ],
)
def test_version_without_a_checkout_tells_the_commit_that_the_image_was_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: str | None, said: str
) -> None:
    monkeypatch.setattr(version.llava_av, "__file__", str(tmp_path / "llava_av" / "__init__.py"))
    if told is None:
        monkeypatch.delenv(COMMIT_VARIABLE, raising=False)
    else:
        monkeypatch.setenv(COMMIT_VARIABLE, told)
    assert CliRunner().invoke(app, ["--version"]).output == f"llava-av {__version__}{said}\n"


def test_records_are_created_in_a_project_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    new = ["experiment", "new", "mine", "--title", "Mine"]
    with pytest.raises(UserError, match=r"no folder experiments .* work in a project, .* or give --folder"):
        CliRunner().invoke(app, new, catch_exceptions=False)
    assert not (tmp_path / "experiments").exists()
    (tmp_path / "experiments").mkdir()
    assert CliRunner().invoke(app, new, catch_exceptions=False).output == "experiments/mine.md\n"
    assert "mine" in CliRunner().invoke(app, ["experiment", "list"]).output


def test_records_of_the_package_are_found_in_any_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    assert CliRunner().invoke(app, ["experiment", "show", "dryrun", "--part", "dataset"]).output == "demo\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dryrun", "--recipe", "absent"], "no recipe 'absent'"),
        (["dryrun", "--set", "training.steps"], "--set training.steps: give --set KEY=VALUE"),
        (["dryrun", "--set", "training.stepz=3"], "cannot override 'training.stepz'"),
        (["dryrun", "--set", "training.steps=many"], "training.steps"),
        (["dryrun", "--engine", "steam"], "training.engine"),
        (["dryrun", "--dataset", "/nowhere/at/all"], "/nowhere/at/all"),
        (["dryrun", "--experiment", "typo"], "no experiment record 'typo'"),
        (["submit", "dryrun", "--name", "mine"], "--name requires --print"),
    ],
)
def test_wrong_options_are_one_line(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["llava-av", *arguments, "--output-dir", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr().err
    assert ended.value.code == 1
    assert shown.startswith("error: ")
    assert words in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["llava-av", "doctor"])

    def fail(folder: Path) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("llava_av.cli.doctor_checks.examine", fail)
    with pytest.raises(ZeroDivisionError):
        main()


def test_recipe_takes_overrides_seed_and_engine() -> None:
    recipe = chosen_recipe("dryrun", seed=7, engine="torch", overrides=["training.steps=12", "name=mine"])
    assert (recipe.seed, recipe.training.engine, recipe.training.steps, recipe.name) == (
        7,
        "torch",
        12,
        "mine",
    )


def test_macos_trains_with_torch_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llava_av.cli.options.sys.platform", "darwin")
    assert chosen_recipe("dryrun").training.engine == "torch"
    assert chosen_recipe("dryrun", engine="deepspeed").training.engine == "deepspeed"


def test_unknown_field_is_a_recipe_error() -> None:
    with pytest.raises(RecipeError):
        chosen_recipe("dryrun", overrides=["nothing=1"])
    with pytest.raises(UserError, match="KEY=VALUE"):
        chosen_recipe("dryrun", overrides=["=1"])


def test_jobs_run_here_or_with_a_profile_and_its_changes(caplog: pytest.LogCaptureFixture) -> None:
    assert chosen_target("local", "cpu", None, {"A": "1"}) == LOCAL_TARGET
    assert not caplog.records
    for given, option in ((("absent", None), "--profile absent"), (("cpu", ["cpu=2"]), "--job cpu=2")):
        caplog.clear()
        assert chosen_target("local", *given) == LOCAL_TARGET
        assert [one.getMessage().startswith(f"{option} is not used") for one in caplog.records] == [True]
    profile, changes = load_profile("gpu-8"), {"nodes": 3, "cpu": 2, "environment.A": "1"}
    target = chosen_target("kubernetes", profile.model_dump_json(), ["nodes=3", "cpu=2"], {"A": "1"})
    assert (target.launcher, target.profile) == ("kubernetes", load_profile("gpu-8", changes))
    with pytest.raises(UserError, match="--job nodes: give --job KEY=VALUE"):
        chosen_target("kubernetes", "cpu", ["nodes"])


@pytest.mark.parametrize("named", [{}, {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}])
def test_mlflow_never_reports_its_use(monkeypatch: pytest.MonkeyPatch, named: dict[str, str]) -> None:
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.setenv(name, "")  # so that the test's end restores it
        monkeypatch.delenv(name)
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("llava_av.cli.doctor_checks.examine", lambda folder: [])
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0
    assert (os.environ["MLFLOW_DISABLE_TELEMETRY"], os.environ["DO_NOT_TRACK"]) == ("true", "1")


def test_experiments_are_listed_with_the_runs_of_the_output_folder(tmp_path: Path) -> None:
    records, output = tmp_path / "records", tmp_path / "out"
    records.mkdir()
    made = new_record(records, Draft(id="tones", title="Heard"))
    arguments = ["experiment", "list", "--folder", str(records), "--output-dir", str(output)]
    assert CliRunner().invoke(app, arguments).output.split()[-4:] == ["0", "not", "run", "Heard"]
    copy = output / "experiments" / made.name
    copy.parent.mkdir(parents=True)
    copy.write_text(made.read_text().replace(OBSERVED_END, f"{SEEN}{OBSERVED_END}"))
    assert CliRunner().invoke(app, arguments).output.split()[-6:] == ["1", "1", "of", "1", "met", "Heard"]


def test_parts_of_a_record_are_printed_for_scripts(tmp_path: Path) -> None:
    records, output = tmp_path / "records", tmp_path / "out"
    records.mkdir()
    made = new_record(records, Draft(id="tones", title="Heard", recipe="quick", dataset="talks@1"))

    def part(name: str) -> str:
        options = ["--part", name, "--folder", str(records), "--output-dir", str(output)]
        done = CliRunner().invoke(app, ["experiment", "show", "tones", *options])
        assert done.exit_code == 0, done.output
        return done.output

    assert (part("recipe"), part("dataset"), part("seen").strip()) == ("quick\n", "talks@1\n", "")
    copy = output / "experiments" / made.name
    copy.parent.mkdir(parents=True)
    copy.write_text(made.read_text().replace(OBSERVED_END, f"{SEEN}{OBSERVED_END}"))
    assert part("seen") == SEEN


def test_the_earlier_name_of_delete_orphans_works_but_is_not_shown() -> None:
    earlier = CliRunner().invoke(app, ["pipeline", "reap", "--help"]).output
    assert "Delete orphaned jobs" in earlier
    shown = CliRunner().invoke(app, ["pipeline", "--help"]).output
    assert "delete-orphans" in shown
    assert "reap" not in shown


def test_a_commit_either_keeps_or_replaces_what_another_writer_committed(tmp_path: Path) -> None:
    output = tmp_path / "output"
    given = ["data", "commit", str(tmp_path), "--rebase", "--force", "--output-dir", str(output)]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 2
    assert "mutually exclusive" in result.output
    assert not output.exists()
