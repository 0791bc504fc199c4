"""Questions about media of one's own, before any model is read."""

from pathlib import Path

import pytest

from llava_av.errors import UserError
from llava_av.inference.conversation import Conversation, Shown, model_folder
from llava_av.media.container import MediaError
from llava_av.media.image import ImageResizing
from llava_av.recipe import MediaRecipe
from tests.media_samples import click, write_grey_clip
from tests.model_samples import tiny_model


@pytest.mark.parametrize(
    ("shown", "text", "prompt"),
    [
        (Shown(video=Path("a")), "What?", "<video>\nWhat?"),
        (Shown(video=Path("a")), "In <video>, what?", "In <video>, what?"),
        (Shown(images=(Path("a"),), audio=Path("b")), "What?", "<image>\n<audio>\nWhat?"),
        (Shown(images=(Path("a"), Path("b"))), "And <image>?", "<image>\nAnd <image>?"),
        (Shown(), "What?", "What?"),
    ],
)
def test_prompt_places_each_medium_once(shown: Shown, text: str, prompt: str) -> None:
    assert shown.prompt(text) == prompt


@pytest.mark.parametrize(
    ("shown", "text", "words"),
    [
        (Shown(video=Path("a")), "<video> and <video>?", "2 <video> but 1 such files are given"),
        (Shown(video=Path("a")), "What is in <image>?", "name each by --image"),
        (Shown(images=(Path("a"),)), "<image> or <image>?", "2 <image> but 1 such files are given"),
        (Shown(video=Path("a"), use_video=False, use_audio=False), "What?", "leave nothing of --video"),
    ],
)
def test_a_question_that_fits_no_media_is_one_line(shown: Shown, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        shown.prompt(text)


@pytest.mark.parametrize("use_audio", [True, False])
def test_video_brings_its_sound_unless_it_is_not_wanted(tmp_path: Path, use_audio: bool) -> None:
    path = write_grey_clip(tmp_path / "clip.mp4", click(0.5))
    clip = Shown(video=path, use_audio=use_audio).clip(MediaRecipe(frame_size=16), ImageResizing())
    assert clip.videos[0].frames_nhwc.shape == (8, 16, 16, 3)
    assert (clip.videos[0].audio is not None) == use_audio


def test_a_video_may_be_heard_alone(tmp_path: Path) -> None:
    path = write_grey_clip(tmp_path / "clip.mp4", click(0.5))
    [video] = Shown(video=path, use_video=False).clip(MediaRecipe(frame_size=16), ImageResizing()).videos
    assert (len(video.frames_nhwc), video.frame_times_s) == (0, ())
    assert video.audio is not None
    silent = write_grey_clip(tmp_path / "silent.mp4", None)
    with pytest.raises(UserError, match=r"silent\.mp4 has no sound"):
        Shown(video=silent, use_video=False).clip(MediaRecipe(frame_size=16), ImageResizing())


def test_sound_and_picture_by_themselves(tmp_path: Path) -> None:
    path = write_grey_clip(tmp_path / "clip.mp4", click(0.5))
    clip = Shown(audio=path, images=(path,)).clip(MediaRecipe(frame_size=16), ImageResizing())
    assert [sound.ndim for sound in clip.audios] == [1]
    assert [image.shape for image in clip.images_nhwc] == [(16, 16, 3)]


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"absent\.mp4"):
        Shown(video=tmp_path / "absent.mp4").clip(MediaRecipe(), ImageResizing())


def test_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="contains no model"):
        model_folder(str(tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            '{"model_type": "llava", "text_config": {}, "vision_config": {}}',
            "a model of type llava, not llava_av: `llava-av model import`",
        ),
        ("[]", r"config\.json is no JSON object but a list"),
        ("{", r"config\.json is not JSON"),
    ],
)
def test_folder_of_another_model_is_named(tmp_path: Path, config: str, words: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError, match=words):
        model_folder(str(tmp_path), tmp_path)


def test_folder_of_a_checkpoint_or_of_its_model_will_do(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llava_av"}')
    for folder in (tmp_path, tmp_path / "model"):
        assert model_folder(str(folder), tmp_path) == tmp_path / "model"


def test_a_conversation_remembers_and_says_its_reply_in_pieces(tmp_path: Path) -> None:
    model, processor = tiny_model()
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    path = write_grey_clip(tmp_path / "clip.mp4", click(0.5))
    talk = Conversation(tmp_path / "model", Shown(video=path), max_new_tokens=6)
    pieces: list[str] = []
    first = talk.ask("What do you hear?", pieces.append)
    assert "".join(pieces).strip() == first
    with pytest.raises(UserError, match="stands in the first question alone"):
        talk.ask("And in <video>?")
    second = talk.ask("Which colour is shown?")
    alone = Conversation(tmp_path / "model", Shown(video=path), max_new_tokens=6)
    turns = [("human", "<video>\nWhat do you hear?"), ("gpt", first), ("human", "Which colour is shown?")]
    sample = processor.encode(
        turns, Shown(video=path).clip(MediaRecipe(frames_per_s=2), ImageResizing()), reply=True
    )
    batch = processor.collate([sample], left=True)
    del batch["labels"]
    said = model.generate(**batch, max_new_tokens=6, do_sample=False)[0, batch["input_ids"].shape[1] :]
    assert processor.tokenizer.decode(said, skip_special_tokens=True).strip() == second
    assert alone.ask("What do you hear?") == first
