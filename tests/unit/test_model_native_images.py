"""Images of a dataset and of a chat keep their size for a model with tiles."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from llava_av.datasets.loading import load_clip
from llava_av.datasets.schema import Sample
from llava_av.inference.chat import Conversation
from llava_av.inference.chat_media import ChatMedia
from llava_av.media.clip import Clip
from llava_av.media.image import image_size
from llava_av.model import load_saved_model
from llava_av.model.conversion.importing import import_model
from llava_av.training.encoded_cache import EncodedCache
from tests.llava_samples import noise_image, write_llava
from tests.loaded_steps import load_step
from tests.model_samples import tiny_model

SIZES = {"wide.png": (40, 90), "tall.png": (70, 30), "small.png": (9, 12), "large.png": (300, 420)}
TURNED = "turned.png"
ROWS = {
    "one": ["wide.png"],
    "turned": [TURNED],
    "several": ["tall.png", "wide.png", "small.png"],
    "huge": ["large.png"],
    "none": [],
}


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for seed, (name, size) in enumerate(SIZES.items()):
        Image.fromarray(noise_image(*size, seed=seed)).save(folder / name)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise_image(40, 90)).save(folder / TURNED, exif=exif)
    return folder


@pytest.fixture(scope="module", params=["llava_next", "llava_onevision"])
def parts(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    import_model(write_llava(request.param, folder / "source"), folder / "model")
    return folder / "model", *load_saved_model(folder / "model")


def sample(name: str) -> Sample:
    turns = [{"from": "human", "value": "What is shown here?"}, {"from": "gpt", "value": "A cat"}]
    return Sample.model_validate({"id": name, "conversations": turns, "image": ROWS[name]})


def loader(processor, root):
    return partial(
        load_clip, root, media=processor.config.media_recipe(), resizing=processor.image_resizing()
    )


def test_a_batch_of_images_of_every_size_is_counted_from_their_headers_and_trained_on(parts, images):
    _, model, processor = parts
    cache = EncodedCache(processor, loader(processor, images), max_bytes=2**20)
    samples = [sample(name) for name in ROWS]
    count = len(samples)
    [batch] = load_step(samples, processor, cache).micro_batches
    [packed] = load_step(samples, processor, cache, pack_length=2_000).micro_batches
    text = processor.measure([("human", "What is shown here?"), ("gpt", "A cat")], Clip()).tokens
    limit = processor.config.max_image_pixels
    for row, name in zip(batch.tensors["input_ids"], batch.ids, strict=True):
        names = ROWS[name]
        sizes = [image_size(images / name, max_pixels=limit) for name in names]
        tokens = [processor.token_counts.image_tokens(size, alone=len(sizes) == 1) for size in sizes]
        assert int((row == processor.config.image_token_id).sum()) == sum(tokens)
    assert batch.tokens >= text * count
    model.train()
    output = model(**batch.tensors)
    output.loss.backward()
    assert model.newline.grad.abs().sum() > 0
    torch.testing.assert_close(model(**packed.tensors).loss, output.loss, atol=5e-5, rtol=0)
    model.zero_grad()
    model.eval()


def test_a_file_of_a_dataset_equals_a_call_with_the_image(parts, images):
    """The image processor gets equal pixels, so no difference is allowed."""
    _, _, processor = parts
    for name in ("one", "turned", "several"):
        clip = loader(processor, images)(sample(name))
        batch = processor.collate([processor.encode([("human", "What?")], clip)])
        opened = [Image.open(images / file) for file in ROWS[name]]
        upright = [one.transpose(Image.Transpose.ROTATE_270) if name == "turned" else one for one in opened]
        text = processor.apply_chat_template([{"role": "user", "content": [{"type": "image"}] * len(opened)}])
        # a list within the list is one row
        called = processor(text=text, images=[[np.array(one) for one in upright]], return_tensors="pt")
        assert called["image_sizes"].tolist() == batch["image_sizes"].tolist()
        tiles = batch["image_tiles"].tolist()
        pixels = zip(called["pixel_values"], batch["pixel_values"].split(tiles), strict=True)
        for count, (expected, own) in zip(tiles, pixels, strict=True):
            assert torch.equal(expected[:count], own)


def test_a_chat_keeps_the_sizes_of_several_images(parts, images):
    folder, model, processor = parts
    shown = ChatMedia(images=(images / "tall.png", images / "wide.png"))
    output = Conversation(folder, shown, max_new_tokens=4).ask("What is shown here?")
    clip = Clip(images_nhwc=(noise_image(70, 30, seed=1), noise_image(40, 90, seed=0)))
    turns = [("human", "<image>\n<image>\nWhat is shown here?")]
    batch = processor.collate([processor.encode(turns, clip, reply=True)], left=True)
    del batch["labels"]
    out = model.generate(**batch, max_new_tokens=4, do_sample=False)[0, batch["input_ids"].shape[1] :]
    assert processor.tokenizer.decode(out, skip_special_tokens=True).strip() == output


def test_memory_of_an_image_is_bounded_and_without_tiles_it_is_a_square(parts, images):
    _, _, processor = parts
    limit = processor.config.max_image_pixels
    [huge] = loader(processor, images)(sample("huge")).images_nhwc
    most = max(height * width for height, width in processor.config.image_grid_pinpoints)
    assert limit == 4 * most
    assert most < huge.shape[0] * huge.shape[1] <= limit
    _, plain = tiny_model()
    assert plain.config.max_image_pixels is None
    assert [one.shape for one in loader(plain, images)(sample("several")).images_nhwc] == [(32, 32, 3)] * 3
