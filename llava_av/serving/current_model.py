"""The model that answers now, and its replacement without a failed request."""

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator

from llava_av.serving.served_model import ServedModel

__all__ = ["CurrentModel"]


class CurrentModel:
    """The model that answers new requests; an earlier one is closed after its last request.

    Args:
        model: The first model.
    """

    def __init__(self, model: ServedModel) -> None:
        self._lock = threading.Lock()
        self._model = model
        self._users: Counter[int] = Counter()
        self._replaced: dict[int, ServedModel] = {}

    @property
    def model(self) -> ServedModel:
        """Return the model that answers new requests."""
        return self._model

    @contextlib.contextmanager
    def use(self) -> Iterator[ServedModel]:
        """Yield the model that answers now; it stays open until the block ends."""
        with self._lock:
            model = self._model
            self._users[id(model)] += 1
        try:
            yield model
        finally:
            with self._lock:
                self._users[id(model)] -= 1
                unused = self._take_unused()
            _close(unused)

    def replace(self, model: ServedModel) -> None:
        """Answer new requests with another model."""
        with self._lock:
            self._replaced[id(self._model)] = self._model
            self._model = model
            unused = self._take_unused()
        _close(unused)

    def close(self) -> None:
        """Close all models."""
        with self._lock:
            models = [self._model, *self._replaced.values()]
            self._replaced = {}
        for model in models:
            model.close()

    def _take_unused(self) -> list[ServedModel]:
        unused = [key for key in self._replaced if not self._users[key]]
        for key in unused:
            del self._users[key]
        return [self._replaced.pop(key) for key in unused]


def _close(models: list[ServedModel]) -> None:
    # the caller may be the event loop, and joining an engine takes the rest of a step
    for model in models:
        threading.Thread(target=model.close, name="close-model").start()
