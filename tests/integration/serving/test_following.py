"""A server that follows the champion, with a real store and a real MLflow."""

import logging
import threading
import uuid
from pathlib import Path

import pytest
import torch

from llava_av.checkpoints import read_manifest, verify_checkpoint
from llava_av.media.clip import Clip
from llava_av.registry.aliases import promote
from llava_av.registry.history import CHAMPION, AliasHistory
from llava_av.registry.versions import TamperedError, register_version
from llava_av.runs import GateDecision, Registration
from llava_av.serving.alias_follower import AliasFollower
from llava_av.serving.conversation import AskedConversation
from llava_av.serving.current_model import CurrentModel
from llava_av.serving.engine import ReplyEnd, ReplyPiece, Sampling
from llava_av.serving.limits import ServingLimits
from llava_av.serving.model_sources import ModelSource
from llava_av.serving.served_model import ServedModel
from llava_av.storage import ObjectStore
from llava_av.workflows.find_model import find_model
from tests.integration.test_registry import whole
from tests.model_samples import tiny_model
from tests.server_processes import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture
def name() -> str:
    return f"model-{uuid.uuid4().hex[:12]}"


def registered(store: ObjectStore, name: str, folder: Path, scale: float) -> Registration:
    """Register a tiny model whose head is scaled, so that each has another digest."""
    model, processor = tiny_model()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(scale)
    for part in (model, processor):
        part.save_pretrained(folder)
    found = find_model(store, str(folder)).checkpoint
    pinned = verify_checkpoint(store, found.uri, digest=found.digest)
    checkpoint = {"uri": found.uri, "digest": found.digest, "manifest_sha256": pinned}
    return register_version(store, name=name, lineage=whole(found.digest, checkpoint=checkpoint))


def give(store: ObjectStore, name: str, version: Registration) -> None:
    history = AliasHistory(store, name)
    before = history.holder(CHAMPION)
    promote(history, version.version, GateDecision(passed=True), before=before, reason="test", by="test")


def damage(store: ObjectStore, version: Registration) -> None:
    """Change one byte of the weights of a registered version."""
    uri = version.checkpoint_uri
    weights = next(file for file in read_manifest(store, uri).files if file.endswith(".safetensors"))
    key = f"{store.key(uri)}/{weights}"
    content = bytearray(store.get_bytes(key))
    content[-1] ^= 1
    store.put_bytes(key, bytes(content))


@pytest.fixture
def source(name: str, tmp_path: Path) -> ModelSource:
    limits = ServingLimits(batch=2, context=256, decode_workers=1)
    return ModelSource(
        address=f"models:/{name}@champion", work=tmp_path / "work", device="cpu", dtype="auto", limits=limits
    )


class Application:
    """A client that asks again and again, and notes which version answered."""

    def __init__(self, current: CurrentModel) -> None:
        self._current = current
        self.versions: list[str | None] = []
        self.failures: list[object] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            with self._current.use() as model:
                self.ask(model)

    def ask(self, model: ServedModel) -> None:
        done = threading.Event()

        def deliver(event: object) -> None:
            if isinstance(event, ReplyEnd):
                self.versions.append(model.identity.version)
            elif not isinstance(event, ReplyPiece):
                self.failures.append(event)
            if not isinstance(event, ReplyPiece):
                done.set()

        asked = AskedConversation(turns=(("human", "What?"),), media=None)
        prompt, tokens = model.encode(asked, Clip(), 8)
        model.engine.submit(prompt, Sampling(max_tokens=tokens), deliver)
        assert done.wait(60)

    def close(self) -> None:
        self._ended.set()
        self._thread.join()


@pytest.mark.slow
def test_a_new_champion_takes_over_without_a_failed_request_and_a_damaged_one_is_refused(
    mlflow_store: ObjectStore,
    name: str,
    source: ModelSource,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second, third = (
        registered(mlflow_store, name, tmp_path / str(number), 1 + number) for number in range(3)
    )
    give(mlflow_store, name, first)
    address = source.present()
    assert address == f"models:/{name}/1"
    earlier = source.load(address)
    current = CurrentModel(earlier)
    follower = AliasFollower(source, current, address, interval_s=0.1)
    application = Application(current)
    wait_until(lambda: "1" in application.versions, 30)
    give(mlflow_store, name, second)
    wait_until(lambda: "2" in application.versions, 60)
    assert current.model.identity.digest == second.checkpoint_digest
    models = source.work / "models"
    wait_until(lambda: [one.name for one in models.iterdir()] == [second.checkpoint_digest], 30)
    assert current.model.identity.fingerprint == f"{name}/2@{second.checkpoint_digest[:12]}"
    wait_until(lambda: not earlier.engine.is_alive(), 30)

    damage(mlflow_store, third)
    with caplog.at_level(logging.ERROR):
        give(mlflow_store, name, third)
        wait_until(lambda: f"models:/{name}/3 is refused" in caplog.text, 60)
    wait_until(lambda: [one.name for one in models.iterdir()] == [second.checkpoint_digest], 30)
    answered = len(application.versions)
    wait_until(lambda: len(application.versions) > answered + 2, 30)

    application.close()
    follower.close()
    current.close()
    assert application.failures == []
    assert application.versions == sorted(application.versions)
    assert set(application.versions) == {"1", "2"}


def test_a_damaged_champion_is_not_served_at_all(
    mlflow_store: ObjectStore, name: str, source: ModelSource, tmp_path: Path
) -> None:
    version = registered(mlflow_store, name, tmp_path / "model", 1)
    give(mlflow_store, name, version)
    key = f"{mlflow_store.key(version.checkpoint_uri)}/manifest.json"
    mlflow_store.put_bytes(key, mlflow_store.get_bytes(key) + b" ")
    with pytest.raises(TamperedError, match="not what was registered"):
        source.load(source.present())
