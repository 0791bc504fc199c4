"""Exported models as others load them: through auto classes, and as released LLaVA models."""

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from llava_av.errors import UserError
from llava_av.model import load_saved_model
from llava_av.model.conversion.importing import import_model
from llava_av.model.files.reading import ModelFilesError
from llava_av.workflows.export_model import ExportOptions, export_model
from llava_av.workflows.runtime.workspace import Workspace
from tests.llava_samples import FAMILIES, noise_frames, noise_image, write_audio_tower, write_llava
from tests.model_samples import tiny_model

LOAD = """
import sys, torch
from transformers import AutoModelForImageTextToText, AutoProcessor
folder, again = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
inputs = processor(text="Which colour?", return_tensors="pt")
torch.save(model(**inputs).logits.detach(), f"{again}.pt")
model.save_pretrained(again)
processor.save_pretrained(again)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model, processor = tiny_model()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def load_in_new_process(folder: Path, again: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-c", LOAD, str(folder), str(again)],
        cwd=again.parent,
        env={
            "HF_HOME": str(again.parent / "cache"),
            "HF_HUB_OFFLINE": "1",
            "PATH": "",
            "PYTHONPATH": sysconfig.get_path("purelib"),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
def test_auto_classes_load_an_exported_model_and_what_they_save(source, tmp_path):
    export_model(Workspace(folder=tmp_path), str(source), tmp_path / "exported")
    done = load_in_new_process(tmp_path / "exported", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    for folder in ("exported", "again"):
        model, processor = load_saved_model(tmp_path / folder)
        logits = model(**processor(text="Which colour?", return_tensors="pt")).logits
        assert torch.equal(torch.load(tmp_path / "again.pt", weights_only=True), logits)


@pytest.mark.slow
def test_without_the_package_the_error_names_it(source, tmp_path):
    export_model(Workspace(folder=tmp_path), str(source), tmp_path / "exported")
    # Without the module site, the folder that an editable installation adds is not on the path.
    done = load_in_new_process(tmp_path / "exported", tmp_path / "again", "-S")
    assert done.returncode == 1
    assert "pip install llava_av" in done.stderr


@pytest.mark.parametrize("family", FAMILIES)
def test_an_imported_model_goes_back_to_its_family(family, tmp_path):
    original = write_llava(family, tmp_path / "source")
    import_model(original, tmp_path / "own", changes={"max_frames": 4})
    options = ExportOptions(released=True)
    assert (
        export_model(Workspace(folder=tmp_path), str(tmp_path / "own"), tmp_path / "back", options) == family
    )
    assert not list((tmp_path / "back").glob("*.py"))
    media = {"images": [noise_image(30, 100)]}
    if family in ("llava_next_video", "llava_onevision"):
        media["videos"] = [noise_frames(3)]
    content = [{"type": name.removesuffix("s")} for name in media] + [{"type": "text", "text": "What is it?"}]
    logits = []
    for folder in (original, tmp_path / "back"):
        model, processor = (
            AutoModelForImageTextToText.from_pretrained(folder),
            AutoProcessor.from_pretrained(folder),
        )
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        with torch.no_grad():
            logits.append(model(**processor(text=text, return_tensors="pt", **media)).logits)
    assert torch.equal(*logits)


@pytest.mark.parametrize(
    ("changes", "audio", "message"),
    [
        ({}, True, "no audio tower"),
        ({"timestamps": True}, False, "timestamps=True.*llava_onevision.*False"),
        (
            {"resampler_options": {"stride": 4, "mode": "bilinear", "rounding": "ceil"}},
            False,
            "resampler_options=.*4",
        ),
    ],
    ids=["audio", "timestamps", "stride"],
)
def test_what_no_released_model_computes_is_named(changes, audio, message, tmp_path):
    tower = write_audio_tower(tmp_path / "audio") if audio else None
    import_model(
        write_llava("llava_onevision", tmp_path / "source"), tmp_path / "own", audio=tower, changes=changes
    )
    with pytest.raises(ModelFilesError, match=message):
        export_model(
            Workspace(folder=tmp_path), str(tmp_path / "own"), tmp_path / "back", ExportOptions(released=True)
        )
    assert not list((tmp_path / "back").iterdir())


def test_weights_are_converted_unless_they_overflow(source, tmp_path):
    workspace = Workspace(folder=tmp_path)
    export_model(workspace, str(source), tmp_path / "half", ExportOptions(dtype="bfloat16"))
    half, _ = load_saved_model(tmp_path / "half")
    whole, processor = load_saved_model(source)
    for name, weight in whole.state_dict().items():
        assert torch.equal(half.state_dict()[name], weight.to(torch.bfloat16)), name
    whole.language_model.lm_head.weight.data[0, 0] = 1e5
    whole.save_pretrained(tmp_path / "large")
    processor.save_pretrained(tmp_path / "large")
    with pytest.raises(UserError, match=r"not finite in torch.float16"):
        export_model(workspace, str(tmp_path / "large"), tmp_path / "float16", ExportOptions(dtype="float16"))


def test_the_licence_is_stated_in_a_card(source, tmp_path):
    export_model(
        Workspace(folder=tmp_path), str(source), tmp_path / "exported", ExportOptions(license="apache-2.0")
    )
    assert (
        tmp_path / "exported/README.md"
    ).read_text() == "---\nlicense: apache-2.0\nlibrary_name: llava-av\n---\n"
    assert json.loads((tmp_path / "exported/config.json").read_text())["model_type"] == "llava_av"


@pytest.mark.parametrize(
    ("card", "stated"),
    [
        (
            "---\ntags: [video]\nlicense: mit\n---\n# Model\n---\n",
            "---\nlicense: apache-2.0\ntags: [video]\n---\n# Model\n---\n",
        ),
        ("# Model\n", "---\nlicense: apache-2.0\n---\n# Model\n"),
    ],
)
def test_the_licence_replaces_that_of_the_folders_own_card(source, tmp_path, card, stated):
    folder = shutil.copytree(source, tmp_path / "model")
    (folder / "README.md").write_text(card)
    options = ExportOptions(license="apache-2.0")
    export_model(Workspace(folder=tmp_path), str(folder), tmp_path / "exported", options)
    assert (tmp_path / "exported/README.md").read_text() == stated
