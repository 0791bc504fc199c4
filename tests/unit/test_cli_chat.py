"""`llava-av chat` with a tiny model's folder and a real clip."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from typer.main import get_command
from typer.testing import CliRunner, Result

from llava_av.cli.app import app
from llava_av.errors import UserError, printable
from llava_av.inference.chat import Conversation
from llava_av.inference.chat_media import ChatMedia
from llava_av.media.container import MediaError
from llava_av.model import LlavaAvProcessor, load_saved_model
from tests.media_samples import click, write_audio, write_grey_clip, write_image
from tests.model_samples import image, tiny_model

HEARD = "What do you hear?"
SEEN = "Which colour is shown?"
TOKENS = 6


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    for part in tiny_model():
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    write_grey_clip(folder / "loud.mp4", click(0.5))
    write_grey_clip(folder / "mute.mp4")
    write_audio(folder / "audio.wav", click(0.5)[None], 16_000, "pcm_s16le")
    write_image(folder / "still.png", image(size=40), "png")
    (folder / "text.mp4").write_text("no video")
    return folder


def chat(model: Path, *arguments: object, typed: str = "") -> Result:
    options = ["--device", "cpu", "--max-new-tokens", str(TOKENS)]
    return CliRunner().invoke(app, ["chat", str(model), *map(str, arguments), *options], input=typed)


def replies(model: Path, *questions: str, **shown: object) -> str:
    """Return the replies of a conversation with the same model, one per line."""
    conversation = Conversation(model, ChatMedia(**shown), max_new_tokens=TOKENS, device="cpu")
    lines = [conversation.ask(question) + "\n" for question in questions]
    return printable("".join(lines), keep="\n\t")


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ([], {}),
        (["--no-audio"], {"use_audio": False}),
        (["--no-video"], {"use_video": False}),
    ],
)
def test_one_question_is_answered_about_what_is_left_of_the_video(model, media, options, shown):
    result = chat(model, HEARD, "--video", media / "loud.mp4", *options)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == replies(model, HEARD, video=media / "loud.mp4", **shown).strip()
    assert result.stderr == "loading the model …\n"


def test_the_prompt_is_shorter_without_audio_or_frames(model, media):
    """Excluded modalities are absent from the prompt, not silent or black."""
    processor = LlavaAvProcessor.from_pretrained(model)
    lengths = []
    for used in ({}, {"use_audio": False}, {"use_video": False}):
        files = ChatMedia(video=media / "loud.mp4", **used)
        clip = files.load(processor.config.media_recipe(), processor.image_resizing())
        lengths.append(processor.measure([("human", HEARD)], clip).tokens)
    both, without_audio, without_frames = lengths
    assert both > max(without_audio, without_frames)


def test_every_line_is_a_question_that_knows_those_before_it(model, media):
    typed = f"{HEARD}\n{SEEN}\n\nnever asked\n"
    result = chat(model, "--video", media / "loud.mp4", typed=typed)
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == replies(model, HEARD, SEEN, video=media / "loud.mp4").split()
    assert result.stdout.count("\n") == 2
    found = json.loads(chat(model, "--video", media / "loud.mp4", "--json", typed=typed).stdout)
    assert [turn["question"] for turn in found] == [HEARD, SEEN]
    assert "\n".join(printable(turn["reply"]) for turn in found).split() == result.stdout.split()


def test_json_of_a_conversation_on_a_terminal_has_neither_prompts_nor_errors(
    model, media, monkeypatch, capsys
):
    typed, terminal = os.openpty()
    os.write(typed, f"{HEARD}\n<image>\n{SEEN}\n\n".encode())
    options = ("--video", str(media / "loud.mp4"), "--device", "cpu", "--max-new-tokens", str(TOKENS))
    with os.fdopen(typed, "rb", buffering=0), os.fdopen(terminal) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        get_command(app)(["chat", str(model), *options, "--json"], standalone_mode=False)
    shown = capsys.readouterr()
    assert [turn["question"] for turn in json.loads(shown.out)] == [HEARD, SEEN]
    assert "<image>" in shown.err


def test_audio_and_image_files(model, media):
    options = ["--audio", media / "audio.wav", "--image", media / "still.png"]
    result = chat(model, SEEN, *options)
    assert result.exit_code == 0, result.output
    shown = {"audio": media / "audio.wav", "images": (media / "still.png",)}
    assert result.stdout.split() == replies(model, SEEN, **shown).split()


@pytest.mark.parametrize(
    ("options", "error", "line"),
    [
        (["--video", "gone.mp4"], UserError, r"gone\.mp4: no such file"),
        (["--video", "text.mp4"], MediaError, r"text\.mp4: "),
        (["--video", "audio.wav"], MediaError, r"audio\.wav: has no video track"),
        (["--audio", "mute.mp4"], MediaError, r"mute\.mp4: has no audio track"),
        (["--image", "audio.wav"], MediaError, r"audio\.wav: has no video track"),
        (["--video", "mute.mp4", "--no-video"], UserError, r"mute\.mp4 has no audio"),
        (["--device", "tpu"], UserError, "--device tpu is not available.*cpu"),
        (["--device", "cuda:99"], UserError, "--device cuda:99 is not available"),
    ],
)
def test_what_cannot_be_shown_is_one_line(model, media, options, error, line):
    arguments = [str(media / one) if "." in one else one for one in options]
    given = ["chat", str(model), SEEN, *arguments]
    with pytest.raises(error, match=line) as caught:
        CliRunner().invoke(app, given, catch_exceptions=False)
    assert "\n" not in str(caught.value)


def test_more_than_the_model_takes_is_one_line(media, tmp_path):
    for part in tiny_model(model__max_tokens=20):
        part.save_pretrained(tmp_path / "model")
    given = ["chat", str(tmp_path / "model"), HEARD, "--video", str(media / "loud.mp4")]
    with pytest.raises(UserError, match=r"a sample of \d+ tokens is over max_tokens=20"):
        CliRunner().invoke(app, given, catch_exceptions=False)


def test_more_than_the_language_model_has_positions_for_is_one_line(model):
    """Without a token limit of the model, the positions of its language model are the limit."""
    with pytest.raises(UserError, match=r"of \d{5,} tokens .* max_position_embeddings=2048") as caught:
        CliRunner().invoke(app, ["chat", str(model), "x" * 100_000], catch_exceptions=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("model.safetensors", None, r"has no model\.safetensors"),
        ("model.safetensors", b"cut", r"model\.safetensors of 3 bytes is truncated"),
        ("tokenizer.json", b"{", "cannot be read: .*; check its files"),
    ],
)
def test_a_damaged_model_is_one_line(model, tmp_path, name, content, line):
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / name).unlink()
    if content is not None:
        (tmp_path / "model" / name).write_bytes(content)
    with pytest.raises(UserError, match=line) as caught:
        CliRunner().invoke(app, ["chat", str(tmp_path / "model"), HEARD], catch_exceptions=False)
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_used_where_there_is_one(model, media):
    conversation = Conversation(model, ChatMedia(video=media / "loud.mp4"), max_new_tokens=TOKENS)
    assert torch.cuda.memory_allocated() > 0
    assert conversation.ask(HEARD) + "\n" == replies(model, HEARD, video=media / "loud.mp4")


def test_weights_keep_the_dtype_of_their_files(media, tmp_path):
    model, processor = tiny_model()
    model.to(torch.bfloat16).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    assert load_saved_model(tmp_path / "model")[0].dtype == torch.bfloat16
    conversation = Conversation(
        tmp_path / "model", ChatMedia(video=media / "loud.mp4"), max_new_tokens=TOKENS
    )
    conversation.ask(HEARD)
