"""What is said of the gate, and under which name a model is registered."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llava_av.errors import UserError
from llava_av.recipe import load_recipe
from llava_av.registry.gate import GateResult
from llava_av.steps import promote as steps
from llava_av.steps.context import Workspace
from llava_av.steps.data import is_demo
from llava_av.steps.promote import describe_gate
from llava_av.steps.register import _model_name

SECOND = {"name": "dryrun", "version": "2"}


@pytest.mark.parametrize(
    ("decided", "line"),
    [
        ({"passed": True, "reasons": [], "before": None}, "moved from no version to version 2"),
        ({"passed": True, "reasons": [], "before": "3"}, "moved from version 3 to version 2"),
        ({"passed": True, "reasons": [], "before": "2"}, "stays at version 2"),
        ({"passed": False, "reasons": ["a is 1", "b is 2"], "before": "3"}, "gate failed: a is 1; b is 2"),
        ({"passed": None, "reasons": ["no joint questions"], "before": None}, "not run: no joint questions"),
    ],
)
def test_gate_is_told_with_what_moved_from_where(decided: dict, line: str) -> None:
    assert describe_gate(decided, SECOND).endswith(line)


class Store:
    """An object store that holds JSON in memory."""

    def __init__(self, **held: Any) -> None:
        self.held = {f"runs/r/{name.replace('_json', '.json')}": value for name, value in held.items()}

    def put_json(self, key: str, value: Any) -> None:
        self.held[key] = value

    def find_json(self, key: str) -> Any:
        return self.held.get(key)

    def delete(self, key: str) -> None:
        self.held.pop(key, None)


def test_a_promotion_that_goes_on_knows_the_champion_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(register_json=SECOND, evaluation_json={})
    champion = ["1"]
    monkeypatch.setattr(steps.ObjectStore, "from_env", lambda: store)
    monkeypatch.setattr(steps.Run, "record", lambda run: SimpleNamespace(expected=()))
    monkeypatch.setattr(steps, "evaluate_gate", lambda evaluation, expected: GateResult(passed=True))
    monkeypatch.setattr(steps, "_champion", lambda name: champion[0])
    monkeypatch.setattr(steps, "promote", lambda name, version, decided: champion.insert(0, version) or ())
    monkeypatch.setattr(steps, "load_version", lambda uri: SimpleNamespace(to_json=lambda: SECOND))

    def fail(*arguments: Any, **options: Any) -> None:
        raise UserError("S3 is away", transient=True)

    monkeypatch.setattr(steps, "_write_outcome", fail)
    with pytest.raises(UserError):
        steps.promote_step(Workspace(folder=Path("unused")), "r")
    assert champion[0] == "2"
    monkeypatch.setattr(steps, "_write_outcome", lambda *arguments, **options: None)
    assert steps.promote_step(Workspace(folder=Path("unused")), "r")["before"] == "1"
    # The next promotion is another one.
    assert steps.promote_step(Workspace(folder=Path("unused")), "r")["before"] == "2"


def test_own_dataset_gets_a_model_of_its_own() -> None:
    recipe = load_recipe("dryrun")
    assert _model_name(recipe, "demo-60x10-seed0") == "dryrun"
    assert _model_name(recipe, "my-clips") == "dryrun-my-clips"
    assert not is_demo("demo")
