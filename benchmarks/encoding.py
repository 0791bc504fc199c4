"""Benchmark of encoding, compared with transformers: `python -m benchmarks.encoding`.

transformers saves a LLaVA-OneVision with SigLIP base (384 pixels, patches of 16) and a wav2vec2 base with
random weights, and llava-av imports them. Both implementations then process the same frames and the same
audio in alternating order. The table has medians over the rounds in frames, or seconds of audio, per second,
and the ratio of llava-av to transformers. The language model has the width of Qwen2 0.5B and 4 of its 24
layers. transformers has no LLaVA with audio, so its audio row is the tower only; the row of llava-av includes
down-sampling and projection.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from llava_av.model import LlavaAvForConditionalGeneration, LlavaAvProcessor, MediaInputs
from llava_av.model.conversion.importing import import_model
from llava_av.model.sequence.tokenizer import train_tokenizer

_RATE_HZ = 16_000
_LAYERS = 4


@dataclass(frozen=True)
class Size:
    """Sizes of the towers and of the language model."""

    width: int
    layers: int
    image: int
    patch: int
    text_width: int
    convolutions: int


SIZES: Mapping[str, Size] = {
    "base": Size(width=768, layers=12, image=384, patch=16, text_width=896, convolutions=512),
    "tiny": Size(width=32, layers=2, image=32, patch=8, text_width=32, convolutions=16),
}


def write_models(folder: Path, size: Size) -> tuple[Path, Path]:
    """Write a LLaVA-OneVision and a wav2vec2 with random weights, and return their folders."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["What happens?"], 300)
    tokenizer.add_tokens(["<image>", "<video>"], special_tokens=True)
    model = LlavaOnevisionForConditionalGeneration(_onevision(size, tokenizer))
    model.save_pretrained(folder / "onevision")
    square = {"height": size.image, "width": size.image}
    LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=square, image_grid_pinpoints=[[size.image] * 2]),
        tokenizer,
        LlavaOnevisionVideoProcessor(size=square, do_sample_frames=False),
        num_image_tokens=(size.image // size.patch) ** 2,
        vision_feature_select_strategy="full",
        chat_template="{% for m in messages %}{{ m.content }}{% endfor %}",
    ).save_pretrained(folder / "onevision")
    audio = Wav2Vec2Config(
        hidden_size=size.width,
        intermediate_size=4 * size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.width // 16 if size.width < 64 else size.width // 64,
        conv_dim=[size.convolutions] * 7,
        num_conv_pos_embedding_groups=16,
    )
    Wav2Vec2Model(audio).save_pretrained(folder / "wav2vec2")
    Wav2Vec2FeatureExtractor().save_pretrained(folder / "wav2vec2")
    return folder / "onevision", folder / "wav2vec2"


def _onevision(size: Size, tokenizer: PreTrainedTokenizerFast) -> LlavaOnevisionConfig:
    heads = max(2, size.width // 64)
    vision = SiglipVisionConfig(
        hidden_size=size.width,
        intermediate_size=4 * size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=heads,
        image_size=size.image,
        patch_size=size.patch,
        vision_use_head=False,
    )
    text = Qwen2Config(
        hidden_size=size.text_width,
        intermediate_size=size.text_width * 11 // 2,
        num_hidden_layers=_LAYERS,
        num_attention_heads=max(2, size.text_width // 64),
        num_key_value_heads=2,
        vocab_size=len(tokenizer) + 8,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=[[size.image] * 2],
    )


def seconds_of(call: Callable[[], Any], device: torch.device) -> float:
    """Return the wall time of a call, including its work on the device."""
    begin = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def alternate(
    ours: Callable[[], Any], theirs: Callable[[], Any], *, rounds: int, device: torch.device
) -> tuple[float, float]:
    """Return the median seconds of each implementation, after one warm-up call of each."""
    pair = (ours, theirs)
    for call in pair:
        seconds_of(call, device)
    durations: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for which in (0, 1) if number % 2 else (1, 0):
            durations[which].append(seconds_of(pair[which], device))
    return median(durations[0]), median(durations[1])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--audio-clips", type=int, default=2, help="audio clips of 10 s in a batch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--size", choices=SIZES, default="base", help="tiny only tests the program")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with tempfile.TemporaryDirectory() as made, torch.inference_mode():
        onevision, wav2vec2 = write_models(Path(made), SIZES[given.size])
        import_model(onevision, Path(made) / "ours", audio=wav2vec2)
        ours = LlavaAvForConditionalGeneration.from_pretrained(Path(made) / "ours", dtype=dtype)
        theirs = LlavaOnevisionForConditionalGeneration.from_pretrained(onevision, dtype=dtype)
        tower = Wav2Vec2Model.from_pretrained(wav2vec2, dtype=dtype)
        for model in (ours, theirs, tower):
            model.to(device).eval()
        inputs = _inputs(Path(made) / "ours", given.frames, SIZES[given.size].image, device, dtype)
        sound = torch.randn(given.audio_clips, 10 * _RATE_HZ, device=device, dtype=dtype)
        pixels = inputs["pixel_values_videos"]
        _require_equal(ours(**inputs).logits, theirs(**inputs).logits)
        calls: dict[str, tuple[Callable[[], Any], Callable[[], Any], float, str]] = {
            "frames to tokens": (
                lambda: ours.media_features(MediaInputs(pixel_values_videos=pixels)),
                lambda: theirs.get_video_features(pixels),
                given.frames,
                "frames/s",
            ),
            "frames to the first answer token": (
                lambda: ours(**inputs, logits_to_keep=1),
                lambda: theirs(**inputs, logits_to_keep=1),
                given.frames,
                "frames/s",
            ),
            "audio to tokens": (
                lambda: ours.audio_features(sound, [sound.shape[1]] * len(sound)),
                lambda: tower(sound),
                10.0 * given.audio_clips,
                "s of audio/s",
            ),
        }
        print(f"{device.type}, {str(dtype).removeprefix('torch.')}, {given.threads} threads, {given.size}")
        print("| What | llava-av | transformers | Ratio |\n| --- | --- | --- | --- |")
        for name, (mine, other, amount, unit) in calls.items():
            own, other_s = alternate(mine, other, rounds=given.rounds, device=device)
            rates = f"{amount / own:.2f} {unit} | {amount / other_s:.2f} {unit}"
            print(f"| {name} | {rates} | {other_s / own:.3f} |", flush=True)


def _inputs(
    folder: Path, frames: int, side: int, device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    processor = LlavaAvProcessor.from_pretrained(folder)
    frames_nhwc = torch.randint(0, 256, (frames, side, side, 3), dtype=torch.uint8).numpy()
    inputs = processor(text=["<video>What happens?"], videos=[frames_nhwc], return_tensors="pt")
    moved = {name: value.to(device) for name, value in inputs.items()}
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in moved.items()}


def _require_equal(ours: Tensor, theirs: Tensor) -> None:
    difference = (ours - theirs).abs().max().item()
    print(f"largest difference between logits: {difference:.1e}")
    assert difference <= 1e-4 or ours.dtype == torch.bfloat16, (
        "both implementations must compute the same logits"
    )


if __name__ == "__main__":
    main()
