"""Pixels of files equal those of an imported model's own image and video processors."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from llava_av.datasets.loading import load_clip
from llava_av.datasets.schema import Sample
from llava_av.inference.chat_media import ChatMedia
from llava_av.media.decode import frame_times, read_frames
from llava_av.media.encode import write_clip
from llava_av.model import LlavaAvProcessor
from llava_av.model.conversion.importing import import_model
from llava_av.model.media_inputs import MediaInputs
from llava_av.training.encoded_cache import EncodedCache
from tests.llava_samples import noise_image, write_llava
from tests.loaded_steps import load_step
from tests.model_samples import tiny_model

TURNS = [{"from": "human", "value": "What is shown here?"}, {"from": "gpt", "value": "A cat"}]
HEIGHT, WIDTH, FRAMES = 72, 112, 4


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """Return a video and an image that are not square and larger than any tower's input."""
    folder = tmp_path_factory.mktemp("media")
    frames = np.stack([noise_image(HEIGHT, WIDTH, seed=seed) for seed in range(FRAMES)])
    write_clip(folder / "video.mp4", frames, 1, None, 16_000)
    Image.fromarray(frames[0]).save(folder / "still.png")
    return folder


def imported(family: str, folder: Path) -> LlavaAvProcessor:
    import_model(write_llava(family, folder / "source"), folder / "model")
    return LlavaAvProcessor.from_pretrained(folder / "model")


def trained_on(processor: LlavaAvProcessor, root: Path, decoder: str = "pyav", **named: str):
    """Return the tensors of a training batch of one sample."""
    sample = Sample.model_validate({"id": "one", "conversations": TURNS, **named})
    reading = processor.config.media_recipe().model_copy(update={"decoder": decoder})
    load = partial(load_clip, root, media=reading, resizing=processor.image_resizing())
    cache = EncodedCache(processor, load, max_bytes=2**20)
    return load_step([sample], processor, cache).micro_batches[0].tensors


def whole_frames(path: Path, decoder: str) -> np.ndarray:
    """Return the unresized frames `[frames, height, width, 3]` of a video."""
    times_s = frame_times(float(FRAMES), frames_per_s=1.0, max_frames=32)
    return read_frames(path, times_s, size=1, resize=lambda frame: frame, decoder=decoder)


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
@pytest.mark.parametrize("family", ["llava_onevision", "llava_next_video"])
def test_a_video_of_a_dataset_equals_a_call_with_its_frames(family, decoder, media, tmp_path):
    """The video processor gets equal pixels, so no difference is allowed."""
    processor = imported(family, tmp_path)
    frames = whole_frames(media / "video.mp4", decoder)
    assert frames.shape == (FRAMES, HEIGHT, WIDTH, 3)
    text = processor.apply_chat_template([{"role": "user", "content": [{"type": "video"}]}])
    called = processor(text=text, videos=[frames], return_tensors="pt")["pixel_values_videos"][0]
    trained = trained_on(processor, media, decoder, video="video.mp4")["pixel_values_videos"]
    assert torch.equal(trained, called)
    asked = ChatMedia(video=media / "video.mp4").load(
        processor.config.media_recipe(), processor.image_resizing()
    )
    sample = processor.encode([("human", "What?")], asked, reply=True)
    if decoder == "pyav":
        named = processor(text=text, videos=[str(media / "video.mp4")], return_tensors="pt")
        assert torch.equal(named["pixel_values_videos"][0], called)
        assert torch.equal(processor.collate([sample])["pixel_values_videos"], called)


def test_an_image_without_tiles_is_cropped_as_the_image_processor_does(media, tmp_path):
    processor = imported("llava", tmp_path)
    still = np.array(Image.open(media / "still.png"))
    text = processor.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}])
    called = processor(text=text, images=[still], return_tensors="pt")["pixel_values"]
    assert torch.equal(trained_on(processor, media, image="still.png")["pixel_values"], called)


def test_a_clip_keeps_no_more_memory_than_the_tower_takes(media, tmp_path):
    processor = imported("llava_onevision", tmp_path)
    reading, resizing = processor.config.media_recipe(), processor.image_resizing()
    clip = ChatMedia(video=media / "video.mp4").load(reading, resizing)
    size = processor.config.frame_size
    assert clip.videos[0].frames_nhwc.shape == (FRAMES, size, size, 3)
    assert clip.videos[0].frames_nhwc.dtype == np.uint8


def test_a_fresh_model_gets_squares_from_the_reader(media):
    _, processor = tiny_model()
    assert processor.config.resized_by == "reader"
    times_s = frame_times(float(FRAMES), frames_per_s=processor.config.frames_per_s, max_frames=32)
    frames = read_frames(media / "video.mp4", times_s, size=32)
    batch = trained_on(processor, media, video="video.mp4")
    assert batch["pixel_values_videos"].dtype == torch.uint8
    expected = torch.from_numpy(frames).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    assert torch.equal(MediaInputs.from_arguments(batch).normalised_frames(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frames_in_bytes_give_the_logits_of_normalised_frames(media, dtype):
    model, processor = tiny_model()
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    processor = LlavaAvProcessor(
        processor.tokenizer,
        processor.config,
        SimpleNamespace(image_mean=mean, image_std=std),
    )
    batch = trained_on(processor, media, video="video.mp4")
    frames = batch["pixel_values_videos"]
    assert frames.dtype == torch.uint8
    scale = 255 * torch.tensor(std).view(3, 1, 1)
    shift = (torch.tensor(mean) / torch.tensor(std)).view(3, 1, 1)
    values = frames.float().div(scale).sub(shift)
    assert torch.equal(MediaInputs.from_arguments(batch).normalised_frames(), values)
    model = model.to(dtype).eval()
    named = {name: value for name, value in batch.items() if name not in ("labels", "frame_norm")}
    with torch.inference_mode():
        expected = model(**named | {"pixel_values_videos": values}).logits
        assert torch.equal(model(**named, frame_norm=batch["frame_norm"]).logits, expected)
    with pytest.raises(ValueError, match="need frame_norm"):
        model(**named)
