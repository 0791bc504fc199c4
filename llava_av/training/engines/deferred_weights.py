"""Reading of a base model's weights into the shards of each engine, one tensor at a time."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

__all__ = ["move_to", "read_partitions", "read_shards", "read_whole"]


def move_to(model: nn.Module, device: torch.device) -> None:
    """Move a model to a device, without parameters that an engine has yet to read."""
    if getattr(model, "deferred", None) is None:
        model.to(device)
        return
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, buffer.to(device), name not in module._non_persistent_buffers_set)


def read_shards(model: nn.Module) -> None:
    """Read this process's shards of a model that FSDP2 has sharded on the meta device, onto its own device.

    Does nothing if the weights are in memory already.
    """
    deferred: Any = getattr(model, "deferred", None)
    if deferred is None:
        return
    read: dict[int, Tensor] = {}
    state = {}
    # Tied weights are one tensor under several names, of which files have the first.
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in read:
            local = deferred.read(name, tensor.shape, _rows(tensor)).to(dtype=tensor.dtype)
            read[id(tensor)] = _with_local(tensor, local)
        state[name] = read[id(tensor)]
    model.load_state_dict(state, assign=True)
    vars(model)["deferred"] = None


def _rows(tensor: Tensor) -> slice:
    """Return the rows of this process; the last processes may have fewer than others, or none."""
    if not isinstance(tensor, DTensor):
        return slice(None)
    mesh = tensor.device_mesh
    share = -(-tensor.shape[0] // mesh.size())
    start = min(share * mesh.get_local_rank(), tensor.shape[0])
    return slice(start, min(start + share, tensor.shape[0]))


def _with_local(tensor: Tensor, local: Tensor) -> Tensor:
    if isinstance(tensor, DTensor):
        local = local.to(tensor.device_mesh.device_type)
        local = DTensor.from_local(
            local,
            tensor.device_mesh,
            tensor.placements,
            run_check=False,
            shape=tensor.shape,
            stride=tensor.stride(),
        )
    is_parameter = isinstance(tensor, nn.Parameter)
    return nn.Parameter(local, tensor.requires_grad) if is_parameter else local


def read_partitions(model: nn.Module, deepspeed: Any, config: dict[str, Any], dtype: torch.dtype) -> None:
    """Read a model's weights and partition each for ZeRO 3 at once.

    Rank zero reads, and DeepSpeed's broadcast gives each tensor to the other processes. Does nothing if the
    weights are in memory already.

    Args:
        model: Model with parameters on the meta device.
        deepspeed: The module.
        config: Config of DeepSpeed.
        dtype: Type that the model computes with.
    """
    deferred: Any = getattr(model, "deferred", None)
    if deferred is None:
        return
    _read_buffers(model)
    # `Init` partitions each parameter before it requests the next one.
    deepspeed.zero.Init(module=_Reader(model, dtype), config_dict_or_path=config)
    vars(model)["deferred"] = None


def read_whole(model: nn.Module, dtype: torch.dtype) -> None:
    """Read a model's weights onto this process's device, where it keeps all of them.

    Host memory has one weight at a time. Does nothing if the weights are in memory already.

    Args:
        model: Model with parameters on the meta device.
        dtype: Type that the model computes with.
    """
    deferred: Any = getattr(model, "deferred", None)
    if deferred is None:
        return
    _read_buffers(model)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def value(name: str, old: nn.Parameter) -> nn.Parameter:
        return nn.Parameter(deferred.read(name, old.shape).to(device, dtype), old.requires_grad)

    for _ in _put_parameters(model, value):
        pass
    vars(model)["deferred"] = None


def _read_buffers(model: nn.Module) -> None:
    deferred: Any = model.deferred
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, nn.Parameter):
            tensor.copy_(deferred.read(name, tensor.shape))


def _put_parameters(
    model: nn.Module, value: Callable[[str, nn.Parameter], nn.Parameter]
) -> Iterator[nn.Parameter]:
    """Put `value(name, parameter)` in the place of each parameter, and yield it; tied ones occur once."""
    put: dict[int, nn.Parameter] = {}
    for path, module in model.named_modules():
        for name, old in list(module.named_parameters(recurse=False)):
            is_first = id(old) not in put
            if is_first:
                put[id(old)] = value(f"{path}.{name}".removeprefix("."), old)
            setattr(module, name, put[id(old)])
            if is_first:
                yield put[id(old)]


class _Reader(nn.Module):
    """Module whose parameters are read while they are iterated over."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        # In a tuple, so that it is not a submodule: DeepSpeed must not handle its buffers here.
        self._model = (model,)
        self._dtype = dtype

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Put each parameter of the model into memory, and yield it."""
        return _put_parameters(self._model[0], self._value)

    def _value(self, name: str, old: nn.Parameter) -> nn.Parameter:
        deferred: Any = self._model[0].deferred
        is_reading = distributed.get_rank() == 0
        values = deferred.read(name, old.shape) if is_reading else torch.empty(old.shape)
        return nn.Parameter(values.to(self._dtype), old.requires_grad)
