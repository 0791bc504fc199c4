"""Evaluated runs of records with a parent, in a bucket of each test's own."""

from collections.abc import Callable
from pathlib import Path

import pytest

from llava_av.experiments.authoring import Draft, new_record, parse_statement
from llava_av.runs import Run
from llava_av.storage import ObjectStore
from tests.integration.evaluated import evaluated_runs


@pytest.fixture
def store(mlflow_store: ObjectStore) -> ObjectStore:
    return mlflow_store


@pytest.fixture
def records(tmp_path: Path) -> Path:
    words = {"hypothesis": "h", "rationale": "r", "next_steps": "n", "recipe": "quick"}
    enough = (parse_statement("accuracy.av.joint >= 0.5"),)
    new_record(tmp_path, Draft(id="root", title="Root", expected=enough, **words))
    more = (*enough, parse_statement("accuracy.av.joint.low over parent > 0"))
    new_record(tmp_path, Draft(id="child", title="Child", parent="root", expected=more, **words))
    task = parse_statement("daily-omni: accuracy.av.joint.n >= 3")
    new_record(tmp_path, Draft(id="benchmark", title="Benchmark", expected=(*enough, task), **words))
    return tmp_path


@pytest.fixture
def evaluated(store: ObjectStore, records: Path, tmp_path: Path) -> Callable[..., Run]:
    return evaluated_runs(store, records, tmp_path)
