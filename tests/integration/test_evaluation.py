"""Evaluation jobs on a real object store: shared by processes, killed and resumed, and on a benchmark."""

import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llava_av.datasets.commits import read_commit
from llava_av.datasets.committing import commit_dataset
from llava_av.datasets.demo import make_demo
from llava_av.datasets.schema import Sample
from llava_av.evaluation.answering import Answerer
from llava_av.evaluation.job_request import HELD_OUT
from llava_av.evaluation.runner import evaluate
from llava_av.launch import JobSpec, LaunchError
from llava_av.model import fresh_model
from llava_av.recipe import load_recipe
from llava_av.runs import DatasetName, EvaluationResult, EvaluationWork, Run
from llava_av.storage import ObjectStore
from llava_av.workflows.find_model import find_model
from tests.forked_group import ForkedLauncher, ForkServer
from tests.media_samples import RATE_HZ, write_audio

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

CLIPS = 2
ABLATIONS = 5
QUESTIONS = CLIPS * 6 * ABLATIONS
DEADLINE_S = 240.0


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("demo")
    return root, make_demo(root, seed=0, train_blocks=1, held_out_blocks=1)["held_out"]


@dataclass(frozen=True)
class Place:
    """A model and data in a store of their own."""

    store: ObjectStore
    environment: dict[str, str]
    folder: Path
    todo: EvaluationWork
    run: str

    def request(self, at: str, **changed: Any) -> None:
        todo = self.todo.model_copy(update=changed)
        self.store.put_json(f"runs/{self.run}/{at}/request.json", todo.model_dump(mode="json"))

    def command(self, at: str) -> tuple[str, ...]:
        return ("--run", self.run, "--work", str(self.folder / "work"), "--at", at)

    def launch(self, at: str, processes: int, forks: ForkServer, **changed: Any) -> None:
        self.request(at, **changed)
        spec = JobSpec(
            name=at,
            module="llava_av.evaluation",
            arguments=self.command(at),
            processes=processes,
        )
        ForkedLauncher(forks, self.folder / "logs").run(spec)

    def here(self, at: str, **changed: Any) -> None:
        self.request(at, **changed)
        evaluate(self.run, self.folder / "work", at)

    def rows(self, at: str) -> list[dict[str, Any]]:
        text = self.store.get_bytes(f"runs/{self.run}/{at}/predictions.jsonl").decode()
        return [json.loads(line) for line in text.splitlines()]

    def parts(self, at: str) -> list[dict[str, Any]]:
        keys = [info.key for info in self.store.list(f"runs/{self.run}/{at}/parts/")]
        return [row for key in keys for row in self.store.get_json(key)["predictions"]]


def saved_model(folder: Path, seed: int = 0) -> Path:
    model, processor = fresh_model(load_recipe("quick").with_overrides({"seed": seed}), ("red", "high tone"))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def place(
    store_environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, demo: Any, tmp_path: Path
) -> Place:
    for name, value in store_environment.items():
        monkeypatch.setenv(name, value)
    store = ObjectStore.from_env()
    store.ensure_bucket()
    root, samples = demo
    chosen = {sample.media for sample in samples}
    some = sorted(chosen)[:CLIPS]
    held_out = tuple(sample for sample in samples if sample.media in some)
    commit = commit_dataset(store, "demo", root, {"held_out": held_out}, ())
    named = find_model(store, str(saved_model(tmp_path / "fresh")))
    todo = EvaluationWork(
        task=HELD_OUT,
        dataset=DatasetName(name="demo", commit=commit.id),
        split="held_out",
        checkpoint=named.checkpoint,
        media=None,
        max_new_tokens=6,
        bootstrap_draws=200,
        seed=0,
        batch_size=8,
    )
    return Place(store, dict(store_environment), tmp_path, todo, named.run)


def without_loss(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "loss"} for row in rows]


@pytest.mark.slow
def test_any_number_of_processes_and_any_batch_size_give_the_same(place: Place, forks: ForkServer) -> None:
    """Answers are equal, and so are losses to within 2e-5 nats."""
    place.here("alone", batch_size=64)
    place.launch("two", 2, forks, batch_size=5)
    place.launch("three", 3, forks, batch_size=7)
    alone = place.rows("alone")
    assert len(alone) == QUESTIONS
    assert len({row["reply"] for row in alone}) > 1
    results = [
        place.store.get_json(f"runs/{place.run}/{at}/evaluation.json") for at in ("alone", "two", "three")
    ]
    for at in ("two", "three"):
        rows = place.rows(at)
        assert without_loss(rows) == without_loss(alone)
        assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in alone], abs=2e-5)
    assert [result["cost"]["processes"] for result in results] == [1, 2, 3]
    for result in results:
        assert result["accuracy"] == results[0]["accuracy"]
        assert result["differences"] == results[0]["differences"]
        assert result["identity"] == results[0]["identity"]
        assert result["cost"]["tokens_per_s"] > 0
        assert set(result["modalities"]) == {"audio", "video_audio"}


def test_what_was_asked_before_a_kill_is_not_asked_again(
    place: Place, forks: ForkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadPoolExecutor(1) as pool:
        evaluation = pool.submit(place.launch, "killed", 1, forks, batch_size=1)
        deadline = time.monotonic() + DEADLINE_S
        while len(place.parts("killed")) < 3:
            assert not evaluation.done()
            assert time.monotonic() < deadline
        [process] = forks.ranks()
        process.kill()
        with pytest.raises(LaunchError):
            evaluation.result()
    before = {(row["id"], row["ablation"]) for row in place.parts("killed")}
    assert 3 <= len(before) < QUESTIONS
    asked: list[tuple[str, str]] = []
    original = Answerer.answer

    def noting(self: Answerer, questions: Any, ablation: Any, said: Any) -> Any:
        asked.extend((question.sample.id, str(ablation)) for question in questions)
        return original(self, questions, ablation, said)

    monkeypatch.setattr(Answerer, "answer", noting)
    place.here("killed", batch_size=8)
    assert len(asked) == len(set(asked)) == QUESTIONS - len(before)
    assert not set(asked) & before
    asked.clear()
    place.here("undisturbed", batch_size=8)
    assert len(asked) == QUESTIONS
    assert without_loss(place.rows("killed")) == without_loss(place.rows("undisturbed"))
    assert place.parts("killed") == []


def test_answers_of_another_request_are_not_mixed_in(place: Place) -> None:
    place.here("at", max_new_tokens=1)
    short = place.rows("at")
    place.here("at", max_new_tokens=6)
    assert len(place.rows("at")) == len(short) == QUESTIONS
    assert without_loss(place.rows("at")) != without_loss(short)
    work, named = place.folder / "work", place.todo.dataset
    files = read_commit(place.store, named.name, named.commit).reader(place.store).files
    assert {blob.name for blob in (work / "cache/blobs").iterdir()} == {row.sha256 for row in files}
    assert not (work / "data").exists()


def test_processes_share_the_search_for_samples_that_do_not_fit(
    place: Place, forks: ForkServer, tmp_path: Path
) -> None:
    folder = tmp_path / "words"
    folder.mkdir()
    write_audio(folder / "tiny.wav", np.zeros((1, 100), np.float32), RATE_HZ, "pcm_s16le")
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "red"}]
    media = [{"audio": "tiny.wav"} if number == 20 else {} for number in range(24)]
    samples = [
        Sample.model_validate({"id": str(number), "conversations": turns, **one})
        for number, one in enumerate(media)
    ]
    commit = commit_dataset(place.store, "words", folder, {"held_out": samples}, ())
    dataset = DatasetName(name="words", commit=commit.id)
    place.here("alone", dataset=dataset)
    place.launch("two", 2, forks, dataset=dataset)
    alone, two = (
        Run(store=place.store, id=place.run).read(EvaluationResult, f"{at}/") for at in ("alone", "two")
    )
    assert [one.id for one in alone.unfit] == ["20"]
    assert two.unfit == alone.unfit
    assert two.accuracy["av"]["all"].n == alone.accuracy["av"]["all"].n == 23
