"""Output of `runs show` and `model show` for stored objects that lack or repeat a part."""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from llava_av.cli import session
from llava_av.cli.app import app
from llava_av.registry import versions
from llava_av.runs import DatasetName, Lineage, Registration, Run
from llava_av.storage import ObjectStore
from llava_av.workflows import stored_runs
from tests import index_sample
from tests.artifacts import sample


@pytest.fixture(autouse=True)
def no_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def none(*_: object, **__: object) -> Iterator[None]:
        yield

    for name in ("session", "stored_objects", "require_state"):
        monkeypatch.setattr(session, name, none)
    monkeypatch.setattr(ObjectStore, "from_env", lambda: None)


def shown(*arguments: str) -> list[str]:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output.splitlines()


def test_a_run_without_a_seed_shows_the_recipe_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(train=None, outcome=None), index_sample.run(1, seed=None)
    monkeypatch.setattr(stored_runs, "read_one_run", lambda *_: found)
    (line,) = [line for line in shown("runs", "show", "1" * 16) if line.startswith("recipe")]
    assert line.split() == ["recipe", "dryrun"]


def test_a_model_shows_all_datasets_of_its_training(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = DatasetName(name="a", commit="1" * 64), DatasetName(name="b", commit="2" * 64)
    lineage = sample(Lineage, dataset=datasets[0], further_datasets=datasets[1:])
    version = sample(Registration, lineage=lineage.to_json())
    monkeypatch.setattr(versions, "load_version", lambda *_: version)
    monkeypatch.setattr(Run, "find", lambda *_: None)
    (line,) = [line for line in shown("model", "show", "a/1") if line.startswith("dataset")]
    assert line.split()[1] == ",".join(map(str, datasets))
