"""Floating-point operations (FLOPs) of a model in a training step, from the sizes of its inputs.

A forward pass is a sum over samples and media, each a polynomial of its size:

- language model: `a n + b n²` for a sample of `n` tokens, `b` from attention over all pairs of tokens, and a
  constant for each logit;
- vision tower and connector: a constant for each tile, and one for each video with the same number of frames;
- audio tower: `a + b n + c n²` for each window of `n` audio samples, and `a + b n` for the connector.

The coefficients are counted, as torch counts matrix products, convolutions and attention, on the meta device,
where tensors have shapes and no memory. The backward pass of a trained weight costs twice its forward pass;
frozen weights count in the forward pass only, and recomputed activations do not count.
"""

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from llava_av.errors import UserError
from llava_av.model import LlavaAvConfig, LlavaAvForConditionalGeneration, MediaInputs
from llava_av.model.audio.front_end import LogMelFrontEnd
from llava_av.model.parts import trainable_parts
from llava_av.vocabulary import PartName

__all__ = ["BatchCounts", "KnownValues", "ModelFlops", "count_flops", "trained_shares"]

_LOG = logging.getLogger(__name__)

_TOKENS = (32, 64)


@dataclass(frozen=True, kw_only=True)
class BatchCounts:
    """Sizes of a model's inputs in a batch."""

    tokens: tuple[int, ...]
    """Tokens of each sample, without padding."""
    labelled: int
    """Tokens with a loss, which alone get logits."""
    frames: tuple[int, ...] = ()
    """Frames of each video."""
    tiles: int = 0
    """Tiles of all images."""
    audios: tuple[int, ...] = ()
    """Audio samples of each audio array."""

    @classmethod
    def of(cls, tensors: Mapping[str, Any]) -> "BatchCounts":
        """Count a collated batch.

        Args:
            tensors: Arguments of the model's `forward`.
        """
        owners = tensors.get("sample_of")
        tokens = tensors["attention_mask"].sum(1) if owners is None else owners[owners >= 0].bincount()
        media = MediaInputs.from_arguments(tensors)
        frames, tiles = media.video_frames, media.image_tiles
        if media.pixel_values_videos is not None and media.pixel_values_videos.ndim == 5:
            videos, each = media.pixel_values_videos.shape[:2]
            frames = torch.full((videos,), each)
        if media.pixel_values is not None and tiles is None:
            pixels = media.pixel_values
            tiles = torch.tensor([pixels.shape[:-3].numel()])
        return cls(
            tokens=tuple(tokens.tolist()),
            labelled=int((tensors["labels"][:, 1:] >= 0).sum()),
            frames=() if frames is None else tuple(frames.tolist()),
            tiles=0 if tiles is None else int(tiles.sum()),
            audios=() if media.audio_lengths is None else tuple(media.audio_lengths.tolist()),
        )


def trained_shares(model: nn.Module) -> dict[PartName, float]:
    """Return the share of trained weights of each part of a model."""
    weights = dict(model.named_parameters())
    total: dict[PartName, int] = {}
    trained: dict[PartName, int] = {}
    for name, part in trainable_parts(model).items():
        total[part] = total.get(part, 0) + weights[name].numel()
        trained[part] = trained.get(part, 0) + weights[name].numel() * weights[name].requires_grad
    return {part: trained[part] / total[part] for part in total if total[part]}


def count_flops(config: LlavaAvConfig) -> "ModelFlops | None":
    """Return the FLOPs of a model; if they cannot be counted, log why and return None."""
    try:
        return ModelFlops(config)
    except UserError as error:
        _LOG.info("%s; model FLOPs utilisation is not reported", error)
        return None


class ModelFlops:
    """FLOPs of a model as a function of the counts of a batch.

    Args:
        config: Config of the model.

    Raises:
        UserError: A part computes shapes from values, as routed experts do; the message gives the reason.
    """

    def __init__(self, config: LlavaAvConfig) -> None:
        self._config = _with_countable_attention(config)
        with torch.device("meta"):
            self._model: Any = LlavaAvForConditionalGeneration(self._config)
        self._model.train(False)
        try:
            self._count()
        except Exception as error:  # modules of transformers fail on the meta device with errors of any kind
            reason = " ".join(str(error).split())
            raise UserError(
                f"the FLOPs of this model cannot be counted: {type(error).__name__}: {reason}; take a model "
                "without routed experts"
            ) from error

    def forward(self, counts: BatchCounts) -> dict[PartName, float]:
        """Return the FLOPs of the forward pass by part."""
        linear, quadratic = self._language
        videos = [self._video(frames) for frames in counts.frames]
        tiles = [self._tile()] * counts.tiles if counts.tiles else []
        spans = [self._windows(samples) for samples in counts.audios]
        return {
            "vision_tower": sum(tower for tower, _ in (*videos, *tiles)),
            "vision_connector": sum(connector for _, connector in (*videos, *tiles)),
            "audio_tower": sum(self._window(length) for own in spans for length in own),
            "audio_connector": sum(self._audio_connector(samples) for samples in counts.audios),
            "language": sum(linear * n + quadratic * n * n for n in counts.tokens),
            "embeddings": self._logit * counts.labelled,
        }

    def training(self, counts: BatchCounts, trained: Mapping[PartName, float]) -> float:
        """Return the FLOPs of the forward and backward pass.

        Args:
            counts: Sizes of the batch.
            trained: Share of trained weights by part, as of `trained_shares`.
        """
        forward = self.forward(counts)
        return sum(flops * (1 + 2 * trained.get(part, 0.0)) for part, flops in forward.items())

    def _count(self) -> None:
        width = self._config.text_config.hidden_size
        small, large = (self._flops(lambda n=n: self._run_language(n))[0] for n in _TOKENS)  # type: ignore[misc]
        first, second = _TOKENS
        quadratic = (large / second - small / first) / (second - first)
        self._language = small / first - quadratic * first, quadratic
        head = self._model.get_output_embeddings()
        self._logit = self._flops(lambda: head(torch.empty(1, width, device="meta")))[0]
        if self._config.has_vision:
            self._video = cache(lambda frames: self._vision({"pixel_values_videos": (1, frames)}))
            self._tile = cache(lambda: self._vision({"pixel_values": (1,)}))
            self._video(1)
        if self._config.has_audio:
            self._count_audio()

    def _count_audio(self) -> None:
        front_end = self._model.audio_tower.front_end
        rate = self._config.sample_rate_hz
        longest = max(self._windows(4 * rate))
        lengths = [longest // 4, longest // 2, longest]
        found = [self._audio(samples) for samples in lengths]
        towers = [tower for tower, _ in found]
        if isinstance(front_end, LogMelFrontEnd):
            # Each window is padded to the same length.
            self._window = _polynomial(lengths[-1:], towers[-1:])
        else:
            self._window = _polynomial(lengths, towers)
        self._audio_connector = _polynomial(lengths[::2], [connector for _, connector in found[::2]])

    def _windows(self, samples: int) -> list[int]:
        return [one.stop - one.start for one in self._model.audio_tower.front_end.windows(samples)]

    def _vision(self, shape: Mapping[str, tuple[int, ...]]) -> tuple[float, float]:
        size = self._config.frame_size
        pixels = {name: torch.empty(*first, 3, size, size, device="meta") for name, first in shape.items()}
        tiled = {"image_sizes": torch.tensor([[size, size]]), "image_tiles": torch.tensor([1])}
        media = MediaInputs(**pixels, **(tiled if "pixel_values" in shape else {}))
        return self._tower_and_connector(media)

    def _audio(self, samples: int) -> tuple[float, float]:
        front_end = self._model.audio_tower.front_end
        shape: tuple[int, ...] = (1, samples)
        if isinstance(front_end, LogMelFrontEnd):
            windows = len(front_end.windows(samples))
            shape = (windows, front_end.extractor.feature_size, front_end.extractor.nb_max_frames)
        values = torch.empty(shape, device="meta")
        return self._tower_and_connector(
            MediaInputs(audio_values=values, audio_lengths=torch.tensor([samples]))
        )

    def _tower_and_connector(self, media: MediaInputs) -> tuple[float, float]:
        total, tower = self._flops(lambda: self._model.media_features(media))
        return tower, total - tower

    def _run_language(self, tokens: int) -> Any:
        embeddings = torch.empty(1, tokens, self._config.text_config.hidden_size, device="meta")
        return self._model.get_decoder()(inputs_embeds=embeddings, use_cache=False)

    def _flops(self, run: Callable[[], Any]) -> tuple[float, float]:
        """Return the FLOPs of a forward pass, and those of them in the towers."""
        towers = [getattr(self._model, "vision_tower", None)]
        towers += [getattr(getattr(self._model, "audio_tower", None), "model", None)]
        with torch.no_grad(), KnownValues(), FlopCounterMode(display=False) as counter:
            with _counted_apart(counter, [one for one in towers if one is not None]) as inside:
                run()
            return float(counter.get_total_flops()), float(sum(inside))


def _with_countable_attention(config: LlavaAvConfig) -> LlavaAvConfig:
    """Return a copy without attention for packed rows, which does not run on the meta device."""
    copied = copy.deepcopy(config)
    if str(copied.text_config._attn_implementation).startswith(("flash", "flex")):
        copied.text_config._attn_implementation = "sdpa"
    return copied


@contextmanager
def _counted_apart(counter: FlopCounterMode, modules: Sequence[nn.Module]) -> Iterator[list[float]]:
    """Yield a list of the FLOPs before (negative) and after each call of these modules."""
    found: list[float] = []
    with ExitStack() as stack:
        for module in modules:
            before = module.register_forward_pre_hook(
                lambda *_: found.append(-float(counter.get_total_flops()))
            )
            after = module.register_forward_hook(lambda *_: found.append(float(counter.get_total_flops())))
            stack.callback(before.remove)
            stack.callback(after.remove)
        yield found


class KnownValues(TorchFunctionMode):
    """Values that towers read but the meta device does not have: all masks are without padding."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if function is torch.Tensor.__bool__ and args[0].is_meta:
            return True
        if function is torch.tensor and _is_list_of_lists(args[0]):
            # Pairs of Python numbers, such as sizes of images, keep their values.
            options["device"] = "cpu"
        return function(*args, **options)


def _is_list_of_lists(data: Any) -> bool:
    return isinstance(data, list) and bool(data) and isinstance(data[0], list)


def _polynomial(places: Sequence[int], values: Sequence[float]) -> Callable[[int], float]:
    """Return the polynomial through some points, by Newton's divided differences.

    All processes must compute the same bits; the solver of a linear system may differ between CPUs.
    """
    coefficients = list(values)
    for order in range(1, len(places)):
        for at in range(len(places) - 1, order - 1, -1):
            difference = coefficients[at] - coefficients[at - 1]
            coefficients[at] = difference / (places[at] - places[at - order])

    def evaluate(x: int) -> float:
        result = 0.0
        for place, coefficient in zip(reversed(places), reversed(coefficients), strict=True):
            result = result * (x - place) + coefficient
        return result

    return evaluate
