import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_av.evaluation.ablations import apply_ablation
from llava_av.media.clip import Clip, Video
from llava_av.vocabulary import Ablation

QUESTION = "<image>\n<video>\n<audio>\nWhich colour?"


def whole_clip() -> Clip:
    frames = np.zeros((3, 8, 8, 3), dtype=np.uint8)
    audio = np.ones(100, dtype=np.float32)
    video = Video(frames_nhwc=frames, frame_times_s=(0.0, 0.5, 1.0), audio=audio)
    return Clip(videos=(video,), audios=(audio,), images_nhwc=(frames[0],))


def counts(clip: Clip) -> tuple[int, int, int, int]:
    """Return the numbers of frames, videos with audio, audios and images."""
    return (
        sum(len(video.frames_nhwc) for video in clip.videos),
        sum(video.audio is not None for video in clip.videos),
        len(clip.audios),
        len(clip.images_nhwc),
    )


@pytest.mark.parametrize(
    ("ablation", "text", "left"),
    [
        (Ablation.AUDIO_VISUAL, QUESTION, (3, 1, 1, 1)),
        (Ablation.VIDEO_ONLY, "<image>\n<video>\nWhich colour?", (3, 0, 0, 1)),
        (Ablation.AUDIO_ONLY, "<video>\n<audio>\nWhich colour?", (0, 1, 1, 0)),
        (Ablation.SHUFFLED_AUDIO, QUESTION, (3, 1, 1, 1)),
        (Ablation.TEXT_ONLY, "Which colour?", (0, 0, 0, 0)),
    ],
)
def test_each_ablation_keeps_only_its_modalities(
    ablation: Ablation, text: str, left: tuple[int, int, int, int]
) -> None:
    turns, clip = apply_ablation(ablation, (("human", QUESTION), ("gpt", "red")), whole_clip())
    assert turns == (("human", text), ("gpt", "red"))
    assert counts(clip) == left


def test_audio_and_video_leaves_the_sample_as_it_is() -> None:
    clip = whole_clip()
    turns = (("human", "  <video> odd   gaps "), ("gpt", "red "))
    assert apply_ablation(Ablation.AUDIO_VISUAL, turns, clip) == (turns, clip)


def test_names_are_those_of_the_files() -> None:
    assert list(Ablation) == [
        "av", "video_only", "audio_only", "text_only", "shuffled_audio",
    ]  # fmt: skip


@given(parts=st.lists(st.sampled_from(["<image>", "<video>", "<audio>", "\n", " ", "what", "x < y"])))
def test_placeholders_go_with_their_stream_and_words_stay(parts: list[str]) -> None:
    text = "".join(parts)
    for ablation in Ablation:
        ((_, stripped),), _ = apply_ablation(ablation, (("human", text),), Clip())
        counts = {mark: stripped.count(mark) for mark in ("<image>", "<video>", "<audio>")}
        kept = {
            "<image>": ablation.keeps_video,
            "<audio>": ablation.keeps_audio,
            "<video>": ablation.keeps_video or ablation.keeps_audio,
        }
        assert counts == {mark: text.count(mark) * kept[mark] for mark in counts}
        words = [part for part in parts if part.strip() and not part.startswith("<")]
        assert "".join(stripped.split()).count("what") == words.count("what")


def test_every_mixture_of_placeholders_leaves_none_in_text_only() -> None:
    for marks in itertools.permutations(["<image>", "<video>", "<audio>"]):
        ((_, text),), _ = apply_ablation(
            Ablation.TEXT_ONLY, (("human", "Look: " + " ".join(marks) + " what?"),), Clip()
        )
        assert text == "Look: what?"
