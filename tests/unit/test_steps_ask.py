"""Questions about media of one's own, before any model is read."""

from pathlib import Path

import pytest

from llava_av.errors import UserError
from llava_av.media.container import MediaError
from llava_av.recipe import MediaRecipe
from llava_av.steps.ask import Question, model_folder
from tests.media_samples import click, write_grey_clip


@pytest.mark.parametrize(
    ("question", "prompt"),
    [
        (Question(text="What?", video=Path("a")), "<video>\nWhat?"),
        (Question(text="In <video>, what?", video=Path("a")), "In <video>, what?"),
        (Question(text="What?", image=Path("a"), audio=Path("b")), "<image>\n<audio>\nWhat?"),
        (Question(text="What?"), "What?"),
    ],
)
def test_prompt_places_each_medium_once(question: Question, prompt: str) -> None:
    assert question.prompt() == prompt


@pytest.mark.parametrize(
    ("question", "words"),
    [
        (Question(text="<video> and <video>?", video=Path("a")), "2 <video> but 1 such files are given"),
        (Question(text="What is in <image>?", video=Path("a")), "name the file by --image"),
    ],
)
def test_placeholder_without_a_file_is_one_line(question: Question, words: str) -> None:
    with pytest.raises(UserError, match=words):
        question.prompt()


@pytest.mark.parametrize("use_audio", [True, False])
def test_video_brings_its_sound_unless_it_is_not_wanted(tmp_path: Path, use_audio: bool) -> None:
    path = write_grey_clip(tmp_path / "clip.mp4", click(0.5))
    clip = Question(text="?", video=path, use_audio=use_audio).clip(MediaRecipe(frame_size=16))
    assert clip.videos[0].frames_nhwc.shape == (8, 16, 16, 3)
    assert (clip.videos[0].audio is not None) == use_audio


def test_sound_and_picture_by_themselves(tmp_path: Path) -> None:
    path = write_grey_clip(tmp_path / "clip.mp4", click(0.5))
    clip = Question(text="?", audio=path, image=path).clip(MediaRecipe(frame_size=16))
    assert [sound.ndim for sound in clip.sounds] == [1]
    assert [image.shape for image in clip.images_nhwc] == [(16, 16, 3)]


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"absent\.mp4"):
        Question(text="?", video=tmp_path / "absent.mp4").clip(MediaRecipe())


def test_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no model"):
        model_folder(str(tmp_path), tmp_path)


def test_folder_of_a_checkpoint_or_of_its_model_will_do(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    for folder in (tmp_path, tmp_path / "model"):
        assert model_folder(str(folder), tmp_path) == tmp_path / "model"
