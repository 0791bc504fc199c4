"""Videos with their audio in calls as in transformers."""

from pathlib import Path

import pytest
import torch

from llava_av.datasets.loading import load_video
from llava_av.media.clip import Clip
from llava_av.model import MediaInputs
from tests.media_samples import click, write_grey_clip
from tests.model_samples import tiny_model, video, waveform

QUESTION = "Which colour is shown?"
ORDERS = {
    "chunks": {"model__chunk_s": 0.5},
    "chunks with times": {"model__chunk_s": 1.0, "model__timestamps": True},
    "plain with times": {"model__chunk_s": None, "model__timestamps": True},
    "newlines": {"model__chunk_s": 0.5, "model__video_newline": "one"},
    "slow and fast": {"model__chunk_s": 0.5, "model__slow_fast": {"every": 2, "stride": 4}},
}


@pytest.fixture(scope="module", params=ORDERS)
def parts(request):
    return tiny_model(**ORDERS[request.param])


@pytest.fixture(scope="module")
def aligned():
    return tiny_model()


def assert_the_same(model, called, batch):
    """Compare both sides; observed differences: ≤ 1.2e-7 of a pixel, 0 of a sample, ≤ 2e-6 of a logit."""
    batch = {name: value for name, value in batch.items() if name != "labels"}
    assert called["input_ids"].tolist() == batch["input_ids"].tolist()
    with torch.no_grad():
        torch.testing.assert_close(model(**called).logits, model(**batch).logits, atol=1e-4, rtol=0)


def test_a_call_with_a_videos_audio_equals_the_decoded_clip(parts):
    model, processor = parts
    one = video(frames=5, samples=30_000)
    encoded = processor.encode([("human", f"<video>\n{QUESTION}")], Clip(videos=(one,)), reply=True)
    part = {"type": "video", "video": one.frames_nhwc, "audio": one.audio, "frame_times_s": one.frame_times_s}
    chat = [{"role": "user", "content": [part, {"type": "text", "text": QUESTION}]}]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    assert_the_same(model, processor.apply_chat_template(chat, **options), processor.collate([encoded]))


def test_frames_without_times_are_those_of_the_configs_rate(parts):
    """The tiny model takes two frames per second, as the times of the sample do."""
    model, processor = parts
    one = video(frames=4)
    encoded = processor.encode([("human", f"<video>\n{QUESTION}")], Clip(videos=(one,)), reply=True)
    called = processor(
        text=prompt(processor, "video"),
        videos=[one.frames_nhwc],
        audio=[one.audio],
        audio_from_video_indices=[0],
        return_tensors="pt",
    )
    assert_the_same(model, called, processor.collate([encoded]))


def of_audio(batch):
    return {name: value for name, value in batch.items() if name.startswith("audio")}


def prompt(processor, *kinds):
    content = [*({"type": kind} for kind in kinds), {"type": "text", "text": QUESTION}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def test_audio_of_videos_and_audio_files_find_their_positions(aligned):
    """Each array has its own length, so a wrong order gives a wrong number of tokens."""
    model, processor = aligned
    loud, mute, other = video(0, samples=30_000), video(1, samples=None), video(2, samples=12_000)
    alone = waveform(samples=20_000)
    clip = Clip(videos=(loud, mute, other), audios=(alone,))
    text = f"<video>\n<audio>\n<video>\n<video>\n{QUESTION}"
    encoded = processor.encode([("human", text)], clip, reply=True)
    assert [len(one) for one in encoded.audios] == [30_000, 20_000, 12_000]
    called = processor(
        text=prompt(processor, "video", "audio", "video", "video"),
        videos=[one.frames_nhwc for one in clip.videos],
        audio=[other.audio, alone, loud.audio],
        audio_from_video_indices=[2, None, 0],
        return_tensors="pt",
    )
    assert called["audio_order"].tolist() == [2, 1, 0]
    assert_the_same(model, called, processor.collate([encoded]))


def test_an_audio_file_before_a_video_keeps_its_position(aligned):
    """Features are scattered in order, so the audio must have the order of the text."""
    model, processor = aligned
    shown, alone = video(0), waveform(3, samples=len(video(0).audio))
    clip = Clip(videos=(shown,), audios=(alone,))
    encoded = processor.encode([("human", f"<audio>\n<video>\n{QUESTION}")], clip)
    assert [id(one) for one in encoded.audios] == [id(alone), id(shown.audio)]
    token = processor.config.audio_token_id
    first = next(place for place, one in enumerate(encoded.input_ids) if one == token)
    batch = processor.collate([encoded])
    heard = processor.collate([processor.encode([("human", "<audio>")], Clip(audios=(alone,)))])
    with torch.no_grad():
        both, alone_encoded = (
            model.media_features(MediaInputs.from_arguments(one)).audio
            for one in (of_audio(batch), of_audio(heard))
        )
    count = processor.token_counts.audio_tokens(len(alone))
    assert encoded.input_ids[first : first + count] == [token] * count
    torch.testing.assert_close(torch.cat(list(both))[:count], alone_encoded[0], atol=1e-5, rtol=0)


def test_videos_of_several_lengths_go_in_one_call(aligned):
    model, processor = aligned
    videos = [video(0, frames=4, samples=None), video(1, frames=2, samples=None)]
    texts = [prompt(processor, "video")] * 2
    called = processor(
        text=texts, videos=[one.frames_nhwc for one in videos], return_tensors="pt", padding=True
    )
    rows = [
        processor.encode([("human", f"<video>\n{QUESTION}")], Clip(videos=(one,)), reply=True)
        for one in videos
    ]
    assert called["video_frames"].tolist() == [4, 2]
    assert_the_same(model, called, processor.collate(rows))
    output = model.generate(**called, max_new_tokens=2, do_sample=False)
    assert output.shape == (2, called["input_ids"].shape[1] + 2)


def test_the_audio_of_a_video_file_goes_with_its_frames(aligned, tmp_path: Path):
    model, processor = aligned
    loud = write_grey_clip(tmp_path / "loud.mp4", click(0.5))
    mute = write_grey_clip(tmp_path / "mute.mp4")
    chat = [
        {
            "role": "user",
            "content": [
                {"type": "video", "path": str(mute)},
                {"type": "video", "path": str(loud)},
                {"type": "text", "text": QUESTION},
            ],
        }
    ]
    called = processor.apply_chat_template(
        chat, tokenize=True, return_dict=True, return_tensors="pt", load_audio_from_video=True
    )
    videos = tuple(load_video(path, processor.config.media_recipe()) for path in (mute, loud))
    encoded = processor.encode([("human", f"<video>\n<video>\n{QUESTION}")], Clip(videos=videos))
    assert_the_same(model, called, processor.collate([encoded]))
    with pytest.raises(ValueError, match="video 1 of 1 is an array"):
        processor(text=prompt(processor, "video"), videos=[videos[0].frames_nhwc], load_audio_from_video=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"audio_from_video_indices": [0, None]}, "2 owners, but audio has 1 entries"),
        ({"audio_from_video_indices": [1]}, "names video 1, but there are 1"),
        ({"audio_from_video_indices": [None]}, "0 .* tokens and 1 audio"),
        ({"audio": [waveform(), waveform()], "audio_from_video_indices": [0, 0]}, "names video 0 2 times"),
        ({"load_audio_from_video": True}, "with 1 entries of audio requires audio_from_video_indices"),
        ({"audio_from_video_indices": [0], "frame_times_s": [(0.0, 1.0)]}, "2 times of 4 frames"),
        ({"audio_from_video_indices": [0], "frame_times_s": []}, "of 0 videos, but there are 1"),
    ],
)
def test_audio_and_videos_that_do_not_match_are_rejected_with_both_counts(aligned, options, message):
    _, processor = aligned
    options = {"audio": [waveform()]} | options
    with pytest.raises(ValueError, match=message):
        processor(
            text=prompt(processor, "video"), videos=[video().frames_nhwc], return_tensors="pt", **options
        )


@pytest.mark.parametrize("rule", ["refuse", "fewer_frames"])
@pytest.mark.parametrize(
    "options", [{}, {"return_attention_mask": False}, {"padding": True, "return_tensors": "pt"}]
)
def test_a_row_over_the_limit_is_rejected_and_padding_does_not_count(rule, options):
    _, processor = tiny_model(model__over_limit=rule)
    media = [video(frames=frames, samples=None).frames_nhwc for frames in (2, 4)]
    given = {"text": [prompt(processor, "video")] * 2, "videos": media}
    shorter, longer = (len(row) for row in processor(**given)["input_ids"])
    for limit, refused in ((longer, None), (longer - 1, 2), (shorter - 1, 1)):
        processor.config.max_tokens = limit
        if refused is None:
            assert len(processor(**given, **options)["input_ids"]) == 2
            continue
        tokens = (shorter, longer)[refused - 1]
        with pytest.raises(
            ValueError, match=f"row {refused} of 2 has {tokens} tokens, must be ≤ max_tokens={limit}"
        ):
            processor(**given, **options)
