"""Files and questions of a conversation, and the folder of its model."""

from pathlib import Path

import pytest

from llava_av.errors import UserError
from llava_av.inference.chat import Conversation
from llava_av.inference.chat_media import ChatMedia
from llava_av.inference.model_source import local_model_folder
from llava_av.media.container import MediaError
from llava_av.media.resizing import ImageResizing
from llava_av.recipe import MediaRecipe
from tests.media_samples import click, write_grey_clip
from tests.model_samples import tiny_model


@pytest.mark.parametrize(
    ("shown", "text", "prompt"),
    [
        (ChatMedia(video=Path("a")), "What?", "<video>\nWhat?"),
        (ChatMedia(video=Path("a")), "In <video>, what?", "In <video>, what?"),
        (ChatMedia(images=(Path("a"),), audio=Path("b")), "What?", "<image>\n<audio>\nWhat?"),
        (ChatMedia(images=(Path("a"), Path("b"))), "And <image>?", "<image>\nAnd <image>?"),
        (ChatMedia(), "What?", "What?"),
    ],
)
def test_prompt_places_each_medium_once(shown: ChatMedia, text: str, prompt: str) -> None:
    assert shown.prompt(text) == prompt


@pytest.mark.parametrize(
    ("shown", "text", "words"),
    [
        (ChatMedia(video=Path("a")), "<video> and <video>?", "2 <video> but 1 files are given"),
        (ChatMedia(video=Path("a")), "What is in <image>?", "add each with --image"),
        (ChatMedia(images=(Path("a"),)), "<image> or <image>?", "2 <image> but 1 files are given"),
        (ChatMedia(video=Path("a"), use_video=False, use_audio=False), "What?", "leave nothing of --video"),
    ],
)
def test_a_question_that_fits_no_media_is_one_line(shown: ChatMedia, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        shown.prompt(text)


@pytest.mark.parametrize("use_audio", [True, False])
def test_a_video_has_its_audio_unless_excluded(tmp_path: Path, use_audio: bool) -> None:
    path = write_grey_clip(tmp_path / "clip.mp4", click(0.5))
    clip = ChatMedia(video=path, use_audio=use_audio).load(MediaRecipe(frame_size=16), ImageResizing())
    assert clip.videos[0].frames_nhwc.shape == (8, 16, 16, 3)
    assert (clip.videos[0].audio is not None) == use_audio


def test_only_the_audio_of_a_video(tmp_path: Path) -> None:
    path = write_grey_clip(tmp_path / "clip.mp4", click(0.5))
    [video] = ChatMedia(video=path, use_video=False).load(MediaRecipe(frame_size=16), ImageResizing()).videos
    assert (len(video.frames_nhwc), video.frame_times_s) == (0, ())
    assert video.audio is not None
    silent = write_grey_clip(tmp_path / "silent.mp4", None)
    with pytest.raises(UserError, match=r"silent\.mp4 has no audio"):
        ChatMedia(video=silent, use_video=False).load(MediaRecipe(frame_size=16), ImageResizing())


def test_audio_and_image_files(tmp_path: Path) -> None:
    path = write_grey_clip(tmp_path / "clip.mp4", click(0.5))
    clip = ChatMedia(audio=path, images=(path,)).load(MediaRecipe(frame_size=16), ImageResizing())
    assert [audio.ndim for audio in clip.audios] == [1]
    assert [image.shape for image in clip.images_nhwc] == [(16, 16, 3)]


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"absent\.mp4"):
        ChatMedia(video=tmp_path / "absent.mp4").load(MediaRecipe(), ImageResizing())


def test_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no model"):
        local_model_folder(str(tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            '{"model_type": "llava", "text_config": {}, "vision_config": {}}',
            "has model_type=llava, must be llava_av: .*`llava-av model import`",
        ),
        ("[]", r"config\.json must be a JSON object, is a list"),
        ("{", r"config\.json is not JSON"),
    ],
)
def test_folder_of_another_model_is_named(tmp_path: Path, config: str, words: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError, match=words):
        local_model_folder(str(tmp_path), tmp_path)


def test_folder_of_a_checkpoint_or_of_its_model_will_do(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llava_av"}')
    for folder in (tmp_path, tmp_path / "model"):
        assert local_model_folder(str(folder), tmp_path) == tmp_path / "model"


def test_a_conversation_remembers_and_says_its_reply_in_pieces(tmp_path: Path) -> None:
    model, processor = tiny_model()
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    path = write_grey_clip(tmp_path / "clip.mp4", click(0.5))
    talk = Conversation(tmp_path / "model", ChatMedia(video=path), max_new_tokens=6)
    pieces: list[str] = []
    first = talk.ask("What do you hear?", pieces.append)
    assert "".join(pieces).strip() == first
    with pytest.raises(UserError, match="<video> belongs in the first question"):
        talk.ask("And in <video>?")
    second = talk.ask("Which colour is shown?")
    alone = Conversation(tmp_path / "model", ChatMedia(video=path), max_new_tokens=6)
    turns = [("human", "<video>\nWhat do you hear?"), ("gpt", first), ("human", "Which colour is shown?")]
    sample = processor.encode(
        turns, ChatMedia(video=path).load(MediaRecipe(frames_per_s=2), ImageResizing()), reply=True
    )
    batch = processor.collate([sample], left=True)
    del batch["labels"]
    output = model.generate(**batch, max_new_tokens=6, do_sample=False)[0, batch["input_ids"].shape[1] :]
    assert processor.tokenizer.decode(output, skip_special_tokens=True).strip() == second
    assert alone.ask("What do you hear?") == first
