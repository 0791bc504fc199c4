"""Bytes that autograd saves in forward passes on the meta device.

A tower or a language model repeats a block, and each repetition saves as many bytes as the one before. Of
equal blocks, the first two of a forward pass run: the first also saves what all of them share, such as
rotations of positions. The others return empty tensors and count as the second one does.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["SavedBytes"]

# Names under which blocks of transformers keep their position, which changes nothing of what they save.
_POSITIONS = {"layer_idx", "layer_index", "layer_id"}


@dataclass(frozen=True, kw_only=True)
class _BlockRun:
    """Result of the last run of blocks that are equal."""

    runs: int
    added: int
    result: Any


class SavedBytes(saved_tensors_hooks):
    """Bytes of the storages that autograd saves in the `with` block, each counted once, without weights.

    Args:
        model: Model on the meta device.
        blocks: Modules of the model that may repeat.
    """

    def __init__(self, model: nn.Module, blocks: Sequence[nn.Module]) -> None:
        super().__init__(self._pack, lambda tensor: tensor)
        self._blocks = blocks
        # Whatever is kept here lives on, so that no other storage gets its address.
        self._known = {
            tensor.untyped_storage()._cdata: tensor.untyped_storage()
            for tensor in (*model.parameters(), *model.buffers())
        }
        self._results: list[Any] = []
        self._bytes = 0
        self._runs: dict[Hashable, _BlockRun] = {}

    def __enter__(self) -> None:
        for block in self._blocks:
            vars(block)["forward"] = partial(self._forward, block, block.forward, _kind(block))
        super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for block in self._blocks:
            del vars(block)["forward"]

    def added_by(self, run: Callable[[], Any]) -> int:
        """Return the bytes that a forward pass adds."""
        before = self._bytes
        self._runs.clear()
        self._results.append(run())
        return self._bytes - before

    def largest_of(self, blocks: Sequence[nn.Module], run: Callable[[], Any]) -> int:
        """Return the bytes that the largest of these blocks adds in a forward pass; 0 without blocks."""
        starts: list[int] = []
        added = [0]
        handles = [
            *(one.register_forward_pre_hook(lambda *_: starts.append(self._bytes)) for one in blocks),
            *(
                one.register_forward_hook(lambda *_: added.append(self._bytes - starts.pop()))
                for one in blocks
            ),
        ]
        if blocks:
            self.added_by(run)
        for handle in handles:
            handle.remove()
        return max(added)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known:
            self._known[storage._cdata] = storage
            self._bytes += storage.nbytes()
        return tensor

    def _forward(
        self, block: nn.Module, forward: Callable[..., Any], kind: Hashable, *args: Any, **kwargs: Any
    ) -> Any:
        """Run a block, or count it as an equal one."""
        again = getattr(block, "gradient_checkpointing", False)
        key = (kind, again, *(_input_kind(leaf) for leaf in tree_leaves((args, kwargs))))
        last = self._runs.get(key)
        if last is not None and last.runs > 1:
            self._bytes += last.added
            return tree_map(self._empty_like, last.result)
        before = self._bytes
        result = forward(*args, **kwargs)
        runs = last.runs + 1 if last else 1
        self._runs[key] = _BlockRun(runs=runs, added=self._bytes - before, result=result)
        return result

    def _empty_like(self, value: Any) -> Any:
        """Return an empty tensor like a result of a block; it counts as saved if the result does."""
        if not isinstance(value, Tensor):
            return value
        empty = torch.empty_like(value, requires_grad=value.requires_grad)
        if value.untyped_storage()._cdata in self._known:
            self._known[empty.untyped_storage()._cdata] = empty.untyped_storage()
        return empty


def _kind(block: nn.Module) -> Hashable:
    """Return what equal blocks have in common: their modules, their settings and their weights."""
    settings = [
        (name, type(module), setting, value)
        for name, module in block.named_modules()
        for setting, value in vars(module).items()
        if isinstance(value, bool | int | float | str) and setting not in _POSITIONS
    ]
    weights = [(name, *_input_kind(weight)) for name, weight in block.named_parameters()]
    return *settings, *weights


def _input_kind(value: Any) -> tuple[Hashable, ...]:
    if isinstance(value, Tensor):
        return value.shape, value.dtype, value.requires_grad
    return type(value).__name__, value if isinstance(value, bool | int | float | str) else None
