"""Follower of an alias whose versions cannot be loaded."""

import logging
import threading
from typing import cast

from llava_av.serving.alias_follower import AliasFollower
from llava_av.serving.current_model import CurrentModel
from llava_av.serving.model_sources import ModelSource
from llava_av.serving.served_model import ServedModel


class BrokenSource:
    """Alias that names a version whose load fails with an error that no user can fix."""

    def __init__(self) -> None:
        self.loads = 0
        self.discarded: list[str] = []
        self.version = 2
        self._checks = 0
        self.checked = threading.Event()

    def present(self) -> str:
        self._checks += 1
        if self._checks == 4:
            self.version = 3
        if self._checks == 8:
            self.checked.set()
        return f"models:/name/{self.version}"

    def load(self, address: str) -> ServedModel:
        self.loads += 1
        raise RuntimeError(f"out of memory: {address}")

    def discard(self, address: str) -> None:
        self.discarded.append(address)


def test_a_version_that_fails_to_load_is_tried_once(caplog):
    source, current = BrokenSource(), cast("CurrentModel", object())
    with caplog.at_level(logging.ERROR):
        follower = AliasFollower(cast("ModelSource", source), current, "models:/name/1", interval_s=0.01)
        assert source.checked.wait(30)
        follower.close()
    assert source.loads == 2
    assert source.discarded == ["models:/name/2", "models:/name/3"]
    assert "models:/name/2 is refused: out of memory" in caplog.text
    assert "models:/name/3 is refused" in caplog.text
