"""Properties of the repository: locks, documented dependencies, layers, fast command line."""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*ROOT.glob("llava_av/**/*.py"), *ROOT.glob("pipelines/**/*.py")])
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
MAX_LINES = 350
MAX_FUNCTION_LINES = 60
HEAVY = {"av", "boto3", "deepspeed", "kfp", "kubernetes", "matplotlib", "mlflow", "torch", "transformers"}


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def direct_dependencies() -> list[Requirement]:
    project = pyproject()["project"]
    extras = project["optional-dependencies"].values()
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    return [found for found in map(Requirement, lines) if found.name != project["name"]]


def locked(lock: Path) -> dict[str, list[str]]:
    """Name to entries (each from its name to its last hash) of a lock."""
    entries: dict[str, list[str]] = {}
    for entry in re.split(r"\n(?=[a-z0-9])", lock.read_text().strip()):
        name = re.match(r"[a-z0-9-]+(?===)", entry)
        assert name, f"{lock.name}: no exact version in {entry[:60]!r}"
        entries.setdefault(name.group(), []).append(entry)
    return entries


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_each_locked_package_has_hashes_and_no_address(lock: Path) -> None:
    assert "://" not in lock.read_text()
    for name, entries in locked(lock).items():
        for entry in entries:
            assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), name


def test_the_lock_fits_each_direct_dependency() -> None:
    entries = locked(ROOT / "requirements/lock.txt")
    for requirement in direct_dependencies():
        versions = [
            re.split(r"[ ;\\]", entry.split("==")[1])[0]
            for entry in entries.get(canonicalize_name(requirement.name), [])
        ]
        assert versions, f"{requirement.name} is not locked; run: make lock"
        assert all(requirement.specifier.contains(version) for version in versions), (requirement, versions)


def test_each_direct_dependency_is_justified_and_nothing_else() -> None:
    page = (ROOT / "docs/dependencies.md").read_text()
    rows = re.findall(r"^\| (`.+?) \| (.+) \|$", page, re.MULTILINE)
    justified = {name for names, _ in rows for name in re.findall(r"`([^`]+)`", names)}
    build = {Requirement(line).name for line in pyproject()["build-system"]["requires"]} | {"uv"}
    assert justified == {requirement.name for requirement in direct_dependencies()} | build


def test_imports_point_downwards() -> None:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_each_package_has_its_layer() -> None:
    contracts = {contract["id"]: contract for contract in pyproject()["tool"]["importlinter"]["contracts"]}
    layers = set(re.findall(r"[\w.]+", " ".join(contracts["layers"]["layers"])))
    tops = {
        path.stem
        for path in (ROOT / "llava_av").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert {f"llava_av.{top}" for top in tops if not top.startswith("__")} == layers - {"pipelines"}


@pytest.mark.parametrize("arguments", [["--help"], ["dryrun", "--help"], ["--version"]], ids=" ".join)
def test_the_command_line_starts_without_heavy_imports(arguments: list[str]) -> None:
    program = (
        "import json, sys\n"
        "from llava_av.cli import main\n"
        f"sys.argv = ['llava-av', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    assert not HEAVY & set(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "arguments",
    [["recipe", "list"], ["recipe", "show", "quick"], ["experiment", "check", "dryrun"]],
    ids=" ".join,
)
def test_commands_about_documents_need_no_extra(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({HEAVY!r}))\n"
        "from llava_av.cli import main\n"
        f"sys.argv = ['llava-av', *{arguments!r}]\n"
        "main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr


def test_steps_import_nothing_that_the_pipeline_image_lacks() -> None:
    installed = locked(ROOT / "requirements/pipeline.txt")
    lacking = sorted(
        module
        for module, names in importlib.metadata.packages_distributions().items()
        if module not in {"llava_av", "pipelines"}
        and not any(canonicalize_name(name) in installed for name in names)
    )
    assert "torch" in lacking
    steps = sorted(
        {
            statement.module
            for path in (ROOT / "pipelines").glob("*.py")
            for statement in ast.walk(ast.parse(path.read_text()))
            if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("llava_av.")
        }
    )
    assert "llava_av.workflows.train" in steps
    names = ["pipelines.pipeline", "pipelines.components", *steps]
    # The value None makes an import fail as if the package were not installed.
    program = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({lacking!r}))\n"
        f"for name in {names!r}: importlib.import_module(name)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_module_says_what_it_is_for_and_stays_short(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), "no docstring"
    assert len(text.splitlines()) <= MAX_LINES


def test_functions_are_short_and_public_classes_have_names_of_their_own() -> None:
    classes: dict[str, str] = {}
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name != "forward":
                assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION_LINES, f"{path}: {node.name}"
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                before = classes.setdefault(node.name, str(path))
                assert before == str(path), f"{node.name} is in {before} and {path}"


def test_workflow_actions_are_pinned_by_commit() -> None:
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        workflow = yaml.safe_load(path.read_text())
        assert workflow["permissions"] in ({}, {"contents": "read"})
        used = [step["uses"] for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step]
        assert used
        assert all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", use) for use in used), used
