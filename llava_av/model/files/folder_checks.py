"""Checks of a Hugging Face folder before transformers reads it: whole files, plain weights and no code.

For an incomplete folder the error of transformers depends on what it tries first, and some folders make it
allocate a model of default size or ask on the terminal whether to run code. These checks reject each such
folder with a one-line error that says what to use instead.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING

from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.files.reading import ModelFilesError
from llava_av.plurals import listed

__all__ = [
    "require_empty",
    "require_folder",
    "require_llava_av",
    "require_processor",
    "require_tokenizer",
    "require_weights",
    "require_whole_shard",
    "weight_files",
]

_POINTER = b"version https://git-lfs"
_SETTINGS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_QUANTISED_KEYS = ("quantization_config", "quantization", "compression_config")
_QUANTISED_FILES = ("quantize_config.json", "quant_config.json")
_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLED, _PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_TOKENIZERS = (
    *("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"),
    *("spiece.model", "sentencepiece.bpe.model", "tekken.json"),
)
_OWN_LAYOUT = ("mm_vision_tower", "mm_projector_type", "mm_hidden_size")
_OWN_TYPES = ("llava_llama", "llava_mistral", "llava_qwen", "llava_mpt", "llava_gemma")
_FROM_PARTS = ("llava", "llava_next", "llava_next_video", "llava_onevision")
_MAX_LAYERS = 1000
_MAX_NAMED = 5


def require_empty(target: Path) -> None:
    """Check that a target is empty or does not exist.

    Raises:
        ModelFilesError: The target is a file, or is not empty.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        problem = "is not empty" if target.is_dir() else "is not a folder"
        raise ModelFilesError(f"{target} {problem}: give an empty folder or a new name")


def require_folder(folder: Path) -> None:
    """Check that a folder has settings that transformers can read without running code or prompting.

    Args:
        folder: Local Hugging Face folder of a model or of a tower.

    Raises:
        ModelFilesError: The folder has no settings, or they describe unusable weights; names what to use.
    """
    _require_model(folder)
    _require_fetched(folder)
    settings = {name: _object(folder / name) for name in _SETTINGS if (folder / name).is_file()}
    _require_plain(folder, settings["config.json"])
    _require_converted(folder, settings["config.json"])
    _require_buildable(folder, settings["config.json"])
    _require_no_code(folder, settings)


def require_llava_av(folder: Path) -> None:
    """Check that a folder's model is one of this project.

    Raises:
        ModelFilesError: The model has another type; names it.
    """
    kind = _object(folder / "config.json").get("model_type")
    if kind != LlavaAvConfig.model_type:
        raise ModelFilesError(
            f"{folder} has model_type={kind}, must be {LlavaAvConfig.model_type}: convert a released "
            "LLaVA model with `llava-av model import`"
        )


def require_weights(folder: Path, *, pickled: bool = False) -> None:
    """Check that a folder has all files of its weights, and that they are whole.

    Args:
        folder: See `require_folder`.
        pickled: True to allow pickled weights, which are read without running code.

    Raises:
        ModelFilesError: Files are missing or cut short; names them.
    """
    if (folder / _WHOLE).is_file():
        shards = [_WHOLE]
    elif (folder / _INDEX).is_file():
        shards = _shards(folder, _INDEX)
    elif pickled and (folder / _PICKLED).is_file():
        return
    elif pickled and (folder / _PICKLED_INDEX).is_file():
        _shards(folder, _PICKLED_INDEX)
        return
    else:
        pickle = (
            f", and its {_PICKLED} is a pickle, which may contain code"
            if (folder / _PICKLED).exists()
            else ""
        )
        raise ModelFilesError(
            f"{folder} has no {_WHOLE} and no {_INDEX}{pickle}: download the model's safetensors files "
            "into it"
        )
    for name in shards:
        require_whole_shard(folder / name)


def require_tokenizer(folder: Path) -> None:
    """Check that a folder has a tokenizer.

    Raises:
        ModelFilesError: The folder has no tokenizer; names the files.
    """
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        lacking = f"tokenizer ({', '.join(_TOKENIZERS[:3])} with merges.txt, …)"
    elif not (folder / "tokenizer_config.json").is_file():
        lacking = "tokenizer_config.json, which names the special tokens"
    else:
        return
    raise ModelFilesError(
        f"{folder} has no {lacking}: copy the tokenizer's files of the same repository into it"
    )


def require_processor(folder: Path) -> None:
    """Check that a folder has settings of an image processor or feature extractor.

    Raises:
        ModelFilesError: The folder has no such settings; names the files.
    """
    if not any((folder / name).is_file() for name in _PROCESSORS):
        raise ModelFilesError(
            f"{folder} has no image processor or feature extractor ({' or '.join(_PROCESSORS)}): copy "
            "these files of the same repository into it"
        )


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a folder that `require_weights` accepts."""
    if (folder / _WHOLE).is_file():
        return [folder / _WHOLE]
    return [folder / name for name in _shards(folder, _INDEX)]


def _require_model(folder: Path) -> None:
    if (folder / "config.json").is_file():
        return
    if next(folder.glob("*.gguf"), None) is not None:
        raise ModelFilesError(
            f"{folder} has weights in GGUF, which are quantised: use the original folder of the model with "
            "config.json and model.safetensors"
        )
    if (folder / "adapter_config.json").is_file():
        raise ModelFilesError(
            f"{folder} has only an adapter (adapter_config.json): merge it into its base model with "
            "peft's merge_and_unload, and use the folder of the merged model"
        )
    raise ModelFilesError(
        f"{folder} holds no model (it has no config.json): give a local Hugging Face folder of a model"
    )


def _require_fetched(folder: Path) -> None:
    pointers = [path.name for path in sorted(folder.iterdir()) if path.is_file() and _is_pointer(path)]
    if pointers:
        raise ModelFilesError(
            f"{folder} has Git LFS pointers instead of {listed(pointers, _MAX_NAMED)}: run `git lfs pull` in "
            "its clone, or download these files"
        )


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def _object(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelFilesError(f"{path} is not JSON ({error}): download it again") from None
    except OSError as error:
        raise ModelFilesError(f"{path} cannot be read: {error.strerror}") from None
    if not isinstance(found, dict):
        raise ModelFilesError(f"{path} must be a JSON object, is a {type(found).__name__}: download it again")
    return found


def _require_plain(folder: Path, config: Mapping[str, object]) -> None:
    """Check that the weights are not quantised."""
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    found = [part[key] for part in parts for key in _QUANTISED_KEYS if part.get(key) is not None]
    method = _method(found[0]) if found else None
    where = "config.json"
    for name in _QUANTISED_FILES:
        if method is None and (folder / name).is_file():
            method, where = _method(_object(folder / name)), name
    if method is not None:
        raise ModelFilesError(
            f"{folder} has quantised weights ({method}, by {where}), which cannot be imported or trained: "
            "use the original model in bfloat16, float16 or float32"
        )


def _method(settings: Any) -> str:
    settings = settings if isinstance(settings, dict) else {}
    bits = settings.get("bits") or settings.get("w_bit") or (4 if settings.get("load_in_4bit") else None)
    name = str(settings.get("quant_method") or ("bitsandbytes" if "load_in_8bit" in settings else "unnamed"))
    return f"{name}, {bits} bits" if bits else name


def _require_converted(folder: Path, config: Mapping[str, object]) -> None:
    """Reject LLaVA's own layout, for which transformers would build a model of default size."""
    own = any(key in config for key in _OWN_LAYOUT) or config.get("model_type") in _OWN_TYPES
    if own:
        named = config.get("architectures") or config.get("model_type")
        architecture = ", ".join(map(str, named)) if isinstance(named, list) else str(named)
        raise ModelFilesError(
            f"{folder} has the layout of LLaVA's own code ({architecture}): use the model converted for "
            f"transformers, such as {_converted(config)} of the Hugging Face Hub"
        )
    lacking = [part for part in ("text_config", "vision_config") if not isinstance(config.get(part), dict)]
    if config.get("model_type") in _FROM_PARTS and lacking:
        raise ModelFilesError(
            f"{folder / 'config.json'} of type {config['model_type']} has no {' and no '.join(lacking)}: use "
            f"the model converted for transformers, such as {_converted(config)} of the Hugging Face Hub"
        )


def _require_buildable(folder: Path, config: Mapping[str, object]) -> None:
    """Check the type and the numbers of layers; all layers are built before weights are compared."""
    kind = config.get("model_type")
    if not isinstance(kind, str | None):
        raise ModelFilesError(
            f"{folder / 'config.json'}: model_type={str(kind)[:60]!r} must be text: download it again"
        )
    for part in (config, *(part for part in config.values() if isinstance(part, dict))):
        for name, value in part.items():
            if name.endswith("layers") and isinstance(value, int) and value > _MAX_LAYERS:
                raise ModelFilesError(
                    f"{folder / 'config.json'}: {name}={value} must be ≤ {_MAX_LAYERS} layers: download it "
                    "again"
                )


def _converted(config: Mapping[str, object]) -> str:
    kind = f"{config.get('architectures')} {config.get('model_type')}".lower()
    if "qwen" in kind or "onevision" in kind:
        return "llava-hf/llava-onevision-qwen2-7b-ov-hf"
    if "mistral" in kind:
        return "llava-hf/llava-v1.6-mistral-7b-hf"
    if "next" in kind or config.get("image_aspect_ratio") == "anyres":
        return "llava-hf/llava-v1.6-vicuna-7b-hf"
    return "llava-hf/llava-1.5-7b-hf"


def _require_no_code(folder: Path, settings: Mapping[str, Mapping[str, object]]) -> None:
    """Reject classes from the folder; a config of a type that transformers has is read by its class."""
    kind = settings["config.json"].get("model_type")
    for name, content in settings.items():
        if name == "config.json" and kind in CONFIG_MAPPING:
            continue
        parts = [content, *(part for part in content.values() if isinstance(part, dict))]
        if name == "processor_config.json" and kind == LlavaAvConfig.model_type:
            # An exported model names its processor for the auto classes, which nothing here uses.
            parts = parts[1:]
        maps = [part["auto_map"] for part in parts if part.get("auto_map")]
        if maps:
            classes = ", ".join(maps[0]) if isinstance(maps[0], dict) else "AutoTokenizer"
            raise ModelFilesError(
                f"{folder / name} names its own code (auto_map: {classes}), which is never run: use a model "
                "with classes of transformers, or delete auto_map if transformers has the class"
            )


def _shards(folder: Path, index: str) -> list[str]:
    """Return the files that an index names, and check that each of them exists."""
    places = _object(folder / index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(one, str) for one in places.values()):
        raise ModelFilesError(f"{folder / index} has no weight_map of tensors to files: download it again")
    names = sorted(set(places.values()))
    elsewhere = [name for name in names if Path(name).name != name]
    if elsewhere:
        raise ModelFilesError(
            f"{folder / index} names files outside its folder: {listed(elsewhere, _MAX_NAMED)}"
        )
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelFilesError(
            f"{folder} lacks {len(missing)} of the {len(names)} files that {index} names: "
            f"{listed(missing, _MAX_NAMED)}; download them into it"
        )
    return names


def require_whole_shard(path: Path) -> None:
    """Check that the header of a safetensors file fits its length.

    Raises:
        ModelFilesError: It does not.
    """
    try:
        with safe_open(path, framework="pt"):
            return
    except (SafetensorError, OSError) as error:
        size = path.stat().st_size
        raise ModelFilesError(
            f"{path} of {size} bytes is truncated or not a safetensors file ({error}): download it again"
        ) from None
