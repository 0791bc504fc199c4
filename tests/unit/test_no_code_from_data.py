"""The product runs no code from files: no pickle, no YAML tags, no shell, no eval."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for folder in ("llava_av", "pipelines") for path in (ROOT / folder).rglob("*.py"))
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
# The error alone, to make one line of it.
HARMLESS = {("pickle", "UnpicklingError")}
CALLS = {"eval", "exec", "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
SAFE_LOADERS = {"SafeLoader", "CSafeLoader", "yaml.SafeLoader", "yaml.CSafeLoader"}


def faults(tree: ast.AST) -> Iterator[str]:
    """Find calls in a module that could execute the content of a file."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    safe = {one.name for one in classes if any(ast.unparse(base) in SAFE_LOADERS for base in one.bases)}
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (f"import {name.name}" for name in names if name.name.split(".")[0] in MODULES)
            case ast.ImportFrom(module=str(module), names=names) if module.split(".")[0] in MODULES:
                found = [name.name for name in names if (module, name.name) not in HARMLESS]
                yield from (f"from {module} import {name}" for name in found)
            case ast.Call():
                yield from _faults_of_call(node, SAFE_LOADERS | safe)


def _faults_of_call(node: ast.Call, loaders: set[str]) -> Iterator[str]:
    name = ast.unparse(node.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if name in CALLS:
        yield name
    if given.get("shell", "False") != "False":
        yield f"{name}(shell={given['shell']})"
    if given.get("trust_remote_code", "False") != "False":
        yield f"{name}(trust_remote_code=…)"
    if given.get("allow_pickle", "False") != "False":
        yield f"{name}(allow_pickle=…)"
    if name == "torch.load" and given.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    if name in ("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"):
        loader = given.get("Loader") or (ast.unparse(node.args[1]) if len(node.args) > 1 else "")
        if loader not in loaders:
            yield f"{name} with {loader or 'any loader'}"


def test_no_module_runs_what_a_file_says() -> None:
    assert len(SOURCES) > 200
    found = {str(path.relative_to(ROOT)): list(faults(ast.parse(path.read_text()))) for path in SOURCES}
    assert {path: what for path, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib.hashing",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=trusted)",
        "numpy.load(path, allow_pickle=True)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
        "eval(text)",
        "exec(text)",
        "AutoModel.from_pretrained(folder, trust_remote_code=True)",
    ],
)
def test_each_way_is_found(text: str) -> None:
    assert len(list(faults(ast.parse(text)))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "from pickle import UnpicklingError",
        "torch.load(path, weights_only=True)",
        "yaml.safe_load(text)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "class Bounded(yaml.SafeLoader): pass\nyaml.load(text, Bounded)",
        "model.eval()",
        "subprocess.run(['ls'])",
    ],
)
def test_harmless_lines_pass(text: str) -> None:
    assert list(faults(ast.parse(text))) == []
