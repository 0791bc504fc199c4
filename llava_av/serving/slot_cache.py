"""Keys and values of a batch whose rows come and go, in memory that is allocated once.

Row `i` of the batch owns slot `i` of each layer. Rows have different lengths, so each writes its next token
at its own position, and a mask hides what lies behind it. The batch has no gaps: if a row leaves, the last
row moves to its slot.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer

from llava_av.errors import UserError

__all__ = ["SlotCache", "require_slots", "token_bytes"]

_ONLY_LAYER = "full_attention"


def require_slots(text_config: Any) -> None:
    """Check that all layers of a language model keep keys and values of every token.

    Raises:
        UserError: A layer keeps something else; names it.
    """
    others = sorted({*(getattr(text_config, "layer_types", None) or ())} - {_ONLY_LAYER})
    if others:
        raise UserError(
            f"this model has layers of type {', '.join(others)}; `serve` supports {_ONLY_LAYER} only: ask it "
            "with `llava-av chat`"
        )


def token_bytes(first: DynamicCache) -> int:
    """Return the bytes of keys and values of one token in all layers; `first` has those of one token."""
    return sum(keys.nbytes + values.nbytes for keys, values in _layers(first))


def _layers(prompt: DynamicCache) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield keys and values of each layer."""
    for layer in prompt.layers:
        assert isinstance(layer, DynamicLayer), "all layers have full attention"
        assert layer.keys is not None
        assert layer.values is not None
        yield layer.keys, layer.values


class _SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, `[slots, heads, length, width]` each."""

    def __init__(self, slots: int, length: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._slots, self._length = slots, length
        self.places = torch.empty(0, dtype=torch.int64)
        """Position at which each row writes its next token."""
        self.longest = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the memory of all slots."""
        self.keys = self._empty(key_states)
        self.values = self._empty(value_states)
        self.is_initialized = True

    def _empty(self, states: Tensor) -> Tensor:
        _, heads, _, width = states.shape
        # memory that is not initialized may have NaN, which a mask does not hide
        return states.new_zeros(self._slots, heads, self._length, width)

    def store(self, row: int, keys: Tensor, values: Tensor) -> None:
        """Copy the keys and values of a prompt into a slot."""
        for slots, given in ((self.keys, keys), (self.values, values)):
            assert slots is not None
            slots[row, :, : given.shape[2]] = given[0]

    def clear(self, row: int) -> None:
        """Overwrite a slot with zeros."""
        for slots in (self.keys, self.values):
            assert slots is not None
            slots[row] = 0

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a slot into another one."""
        for slots in (self.keys, self.values):
            assert slots is not None
            slots[target, :, :length] = slots[source, :, :length]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """Write one token of each row; return the keys and values up to the end of the longest row."""
        rows = len(key_states)
        every = torch.arange(rows, device=key_states.device)
        kept = []
        for slots, states in ((self.keys, key_states), (self.values, value_states)):
            assert slots is not None
            slots[every, :, self.places] = states[:, :, 0]
            kept.append(slots[:rows, :, : self.longest])
        return kept[0], kept[1]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the length of the keys and their offset."""
        return self.longest, 0

    def get_seq_length(self) -> int:
        """Return the length of the longest row."""
        return self.longest

    def get_max_length(self) -> int:
        """Return the length of a slot."""
        return self._length


class SlotCache(Cache):
    """Keys and values of all layers.

    Args:
        first: Keys and values of one token, which have the types and shapes of all others.
        slots: Maximum rows of the batch.
        length: Maximum tokens of a row.

    Raises:
        RuntimeError: There is not enough memory.
    """

    def __init__(self, first: DynamicCache, slots: int, length: int) -> None:
        self._of_layer = []
        for keys, values in _layers(first):
            layer = _SlotLayer(slots, length)
            layer.lazy_initialization(keys, values)
            self._of_layer.append(layer)
        super().__init__(layers=self._of_layer)  # type: ignore[arg-type]
        self.lengths: list[int] = []
        """Tokens of each row."""

    def append(self, prompt: DynamicCache) -> None:
        """Add a row with the keys and values of a prompt."""
        for layer, (keys, values) in zip(self._of_layer, _layers(prompt), strict=True):
            layer.store(len(self.lengths), keys, values)
        self.lengths.append(int(prompt.get_seq_length()))

    def clear(self, row: int) -> None:
        """Overwrite the slot of a row whose keys or values may be NaN, which a mask does not hide."""
        for layer in self._of_layer:
            layer.clear(row)

    def remove(self, row: int) -> None:
        """Remove a row; the last one takes its place."""
        last = len(self.lengths) - 1
        if row != last:
            for layer in self._of_layer:
                layer.move(last, row, self.lengths[last])
        self.lengths[row] = self.lengths[last]
        self.lengths.pop()

    def advance(self, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        """Make room for one token in each row; return the mask and positions of these tokens."""
        places = torch.tensor(self.lengths, device=device)
        self.lengths = [length + 1 for length in self.lengths]
        longest = max(self.lengths)
        for layer in self._of_layer:
            layer.places, layer.longest = places, longest
        return {"attention_mask": _mask(places, longest, dtype), "position_ids": places[:, None]}


def _mask(places: Tensor, longest: int, dtype: torch.dtype) -> Tensor:
    """Return `[rows, 1, 1, longest]` to add to scores: 0 up to each row's place, then the lowest value."""
    hidden = torch.arange(longest, device=places.device) > places[:, None]
    lowest = torch.finfo(dtype).min
    return torch.zeros_like(hidden, dtype=dtype).masked_fill(hidden, lowest)[:, None, None]
