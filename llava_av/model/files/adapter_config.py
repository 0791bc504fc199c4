"""Schema of `adapter_config.json`, which describes an adapter to peft."""

import json
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field, ValidationError

from llava_av.frozen import FrozenModel
from llava_av.model.files.reading import ModelFilesError

__all__ = ["AdapterConfig", "read_adapter_config"]

_MOST_BYTES = 2**24


class AdapterConfig(FrozenModel):
    """Fields of `adapter_config.json` that this project sets; all others have peft's defaults."""

    model_config = ConfigDict(extra="ignore")

    peft_type: Literal["LORA"]
    r: int = Field(ge=1, le=16_384)
    lora_alpha: float = Field(gt=0, allow_inf_nan=False)
    lora_dropout: float = Field(ge=0, lt=1)
    use_dora: bool
    target_modules: tuple[str, ...] = Field(min_length=1)


def read_adapter_config(path: Path) -> AdapterConfig:
    """Read and validate the config of an adapter.

    Raises:
        ModelFilesError: The file is too large, or does not describe an adapter of this project.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            size = f"{path.stat().st_size:,} bytes, more than {_MOST_BYTES:,}"
            raise ModelFilesError(f"{path} has {size}: copy it again")
        return AdapterConfig.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, ModelFilesError):
            raise
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        reason = (
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else str(error).splitlines()[0]
        )
        raise ModelFilesError(
            f"{path} does not describe an adapter of this project ({reason}): copy the folder again"
        ) from None
