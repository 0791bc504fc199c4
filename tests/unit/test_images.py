"""Properties of the images that need no build: locks, Dockerfile and its context."""

import fnmatch
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ("train", "pipeline", "mlflow")
# What only the MLflow server of a cluster has: users, forms to log in with, and PostgreSQL.
MLFLOW_ALONE = {"flask-wtf", "prometheus-flask-exporter", "wtforms"}
SECRET = re.compile(r"password|passwd|token|api_?key|access_?key|secret(?!,id=(index|ca)\b)", re.IGNORECASE)


def locked(name: str) -> dict[str, set[tuple[str, str]]]:
    """Package to its versions, each with what follows the version: marker and hashes."""
    entries = re.split(r"\n(?=[a-z0-9])", (ROOT / f"requirements/{name}.txt").read_text().strip())
    found: dict[str, set[tuple[str, str]]] = {}
    for entry in entries:
        package, version, rest = re.fullmatch(r"(\S+?)==(\S+)(.*)", entry, re.DOTALL).groups()  # type: ignore[union-attr]
        found.setdefault(package, set()).add((version, rest))
    return found


def hashes(rest: str) -> set[str]:
    return set(re.findall(r"--hash=sha256:([0-9a-f]{64})", rest))


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_no_other_versions_than_the_lock(image: str) -> None:
    whole, part = locked("lock"), locked(image)
    assert part.keys() - whole.keys() == (MLFLOW_ALONE if image == "mlflow" else set())
    for package in part.keys() & whole.keys():
        ((version, rest),) = part[package]
        known = {number: hashes(other) for number, other in whole[package]}
        assert version in known, f"{package} {version}"
        assert hashes(rest) == known[version], package


@pytest.mark.parametrize("image", IMAGES)
def test_a_lock_of_an_image_is_for_linux_alone(image: str) -> None:
    for package, versions in locked(image).items():
        assert all(";" not in rest for _, rest in versions), package


def test_each_image_has_what_it_is_for_and_not_what_others_are_for() -> None:
    train, pipeline, mlflow = (set(locked(image)) for image in IMAGES)
    assert {"torch", "deepspeed", "transformers", "av", "mlflow-skinny"} <= train
    assert {"fastapi", "uvicorn"} <= train, "the image also serves models"
    assert {"kfp", "kubernetes", "kubeflow-training", "av", "matplotlib", "mlflow-skinny"} <= pipeline
    assert {"mlflow", "psycopg2-binary", "boto3", "flask-wtf"} <= mlflow
    assert not train & {"kfp", "kubernetes", "mlflow", "pytest"}
    assert not pipeline & {"torch", "deepspeed", "triton", "mlflow", "pytest"}
    assert not mlflow & {"torch", "kfp", "pytest"}


def test_only_the_locks_of_the_environment_make_it_anew() -> None:
    script = (ROOT / "requirements/venv.sh").read_text()
    hashed = re.search(r"^wanted=\$\(cat (.*?) \|", script, re.MULTILINE)
    prerequisites = re.search(r"^\.venv/made-from: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert hashed
    assert prerequisites
    locks = set(hashed[1].split())
    assert locks == {f"requirements/{name}.txt" for name in ("bootstrap", "build", "lock")}
    assert set(prerequisites[1].split()) == {*locks, "pyproject.toml"}


def instructions() -> list[tuple[str, str]]:
    """Each instruction of the Dockerfile with its arguments, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines if line)]


def stage(image: str) -> list[tuple[str, str]]:
    every = instructions()
    begin = every.index(("FROM", f"base AS {image}"))
    end = next((place for place in range(begin + 1, len(every)) if every[place][0] == "FROM"), len(every))
    return every[begin:end]


def test_every_stage_comes_from_the_one_base_that_an_argument_names() -> None:
    every = instructions()
    base = r"PYTHON_IMAGE=docker\.io/library/python:3\.11-slim-bookworm(@sha256:[0-9a-f]{64})?"
    assert every[0][0] == "ARG"
    assert re.fullmatch(base, every[0][1])
    stages = [rest.split(" AS ") for name, rest in every if name == "FROM"]
    names = [name for _, name in stages]
    assert names == ["tools", "base", "code", *IMAGES]
    assert {base for base, _ in stages} <= {"${PYTHON_IMAGE}", *names}
    mounted = re.findall(r"from=(\w+)", " ".join(rest for _, rest in every))
    assert set(mounted) <= set(names)


def test_nothing_names_a_host_or_holds_a_secret() -> None:
    for path in (
        "Dockerfile",
        ".dockerignore",
        "images/install",
        "images/build",
        "requirements/mlflow.in",
    ):
        text = (ROOT / path).read_text()
        assert "://" not in text, path
        assert "index-url" not in text, path
    assert not [line for line in instructions() if SECRET.search(line[1].replace("type=secret,id=", ""))]


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_without_rights_and_has_its_packages_below_its_code(image: str) -> None:
    lines = stage(image)
    assert [rest for name, rest in lines if name == "USER"] == ["1000:1000"]
    names = [f"{name} {rest}" for name, rest in lines]
    packages = next(place for place, line in enumerate(names) if f"install packages {image}" in line)
    later = [place for place, line in enumerate(names) if "--from=code" in line or "COMMIT" in line]
    assert later
    assert min(later) > packages
    copied = [line for line in names[:packages] if line.startswith("COPY")]
    assert copied == [f"COPY requirements/{image}.txt /opt/requirements/"]


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_refuses_what_is_no_commit_before_it_names_it(image: str) -> None:
    lines = stage(image)
    check = lines[lines.index(("ARG", 'COMMIT=""')) + 1][1]
    for commit, code in (("", 0), ("a" * 40, 0), ("a" * 40 + "-modified", 0), ("v1", 1), ("a" * 12, 1)):
        done = subprocess.run(["sh", "-c", check], env={**os.environ, "COMMIT": commit}, check=False)
        assert done.returncode == code, commit


def test_every_cache_lies_where_a_pod_mounts_an_empty_folder() -> None:
    variables = dict(
        pair.split("=", 1) for name, rest in instructions() if name == "ENV" for pair in rest.split()
    )
    caches = {
        *("HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "HF_HOME", "TORCH_HOME", "TORCH_EXTENSIONS_DIR"),
        *("TORCHINDUCTOR_CACHE_DIR", "TRITON_HOME", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH", "NUMBA_CACHE_DIR"),
    }
    assert caches <= variables.keys()
    assert all(variables[name] == "/tmp" or variables[name].startswith("/tmp/") for name in caches)


def sent(path: str) -> bool:
    """Whether a build sees a file: the last pattern that fits it, or a folder above it, decides."""
    answer = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#") and fits(path, line.removeprefix("!")):
            answer = line.startswith("!")
    return answer


def fits(path: str, pattern: str) -> bool:
    """Whether a pattern of .dockerignore names the path or a folder above it."""
    parts = path.split("/")
    if pattern.startswith("**/"):
        return any(fnmatch.fnmatchcase(part, pattern[3:]) for part in parts)
    wanted = pattern.split("/")
    return len(parts) >= len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


@pytest.mark.parametrize(
    "path",
    [
        *(".git/config", ".git/objects/ab/cd", ".venv/bin/python", "dryrun-outputs/report.html"),
        *("outputs/run/report.html", ".env", ".netrc", "id_ed25519", "tests/conftest.py", "docs/images.md"),
        *("llava_av/__pycache__/errors.pyc", "llava_av/cli/__pycache__/app.pyc", "dist/llava_av.whl"),
        *("k8s/secret.yaml", "Makefile", ".mypy_cache/x"),
    ],
)
def test_a_build_does_not_see_what_is_a_developers_own(path: str) -> None:
    assert not sent(path)


def test_a_build_sees_what_the_dockerfile_copies() -> None:
    copied = [rest.split()[:-1] for name, rest in instructions() if name == "COPY" and "--from" not in rest]
    sources = {source for group in copied for source in group}
    assert {"llava_av", "pipelines", "recipes", "experiments", "gates", "k8s/profiles"} <= sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert sent(source if (ROOT / source).is_file() else f"{source}/deep/file.py"), source


def build(folder: Path, *arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return subprocess.run(
        [folder / "images/build", *arguments],
        env={**environment, "PATH": path or os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Create a folder with the script alone."""
    (tmp_path / "images").mkdir()
    shutil.copy(ROOT / "images/build", tmp_path / "images")
    return tmp_path


def test_an_unknown_image_is_one_line(copy: Path) -> None:
    done = build(copy, "train", "engine")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in ("llava-av: ", "'engine'", *IMAGES))


def test_without_a_commit_it_says_so(copy: Path) -> None:
    done = build(copy, "train")
    assert done.returncode == 1
    assert done.stderr.startswith("llava-av: not in a git checkout")
    assert done.stderr.count("\n") == 1


def test_without_a_builder_it_says_what_to_install(copy: Path, tmp_path: Path) -> None:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
    for command in (["init", "--quiet"], [*identity, "commit", "--quiet", "--allow-empty", "-m", "Start"]):
        subprocess.run(["git", "-C", copy, *command], check=True)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("dirname", "git", "sh"):
        (tools / name).symlink_to(shutil.which(name) or name)
    done = build(copy, "train", path=str(tools))
    assert done.returncode == 1
    assert done.stderr.startswith("llava-av: ")
    assert "apt install buildah" in done.stderr
    assert done.stderr.count("\n") == 1


PINNED = "sha256:" + "5" * 64


@pytest.fixture
def pinning(tmp_path: Path) -> Path:
    """Copy the files that images/pin reads, next to a folder of stand-ins for a registry's client."""
    root = tmp_path / "checkout"
    for name in ("images/pin", "Dockerfile", "helm/llava-av/values.yaml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    (tmp_path / "tools").mkdir()
    return root


def pin(root: Path, crane: str) -> subprocess.CompletedProcess[str]:
    """`images/pin` with a client that says this of any image."""
    tools = root.parent / "tools"
    (tools / "crane").write_text(f"#!/bin/sh\n{crane}\n")
    (tools / "crane").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}:/usr/bin:/bin"}
    command = [root / "images/pin"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_pinning_writes_the_digest_of_every_image_that_is_not_the_projects_own(pinning: Path) -> None:
    for _ in range(2):  # a second time over what the first wrote
        assert pin(pinning, f"echo {PINNED}").returncode == 0
        first = (pinning / "Dockerfile").read_text().split("ARG PYTHON_IMAGE=", 1)[1].splitlines()[0]
        assert first == f"docker.io/library/python:3.11-slim-bookworm@{PINNED}"
        digests = yaml.safe_load((pinning / "helm/llava-av/digests.yaml").read_text())["images"]
        images = yaml.safe_load((ROOT / "helm/llava-av/values.yaml").read_text())["images"]
        upstream = {
            name for name, one in images.items() if isinstance(one, dict) and "/" in one["repository"]
        }
        assert digests == {name: {"digest": PINNED} for name in upstream}
        assert upstream == {"minio", "seaweedfs", "postgresql", "trainingOperator", "trainingOperatorInit"}


@pytest.mark.parametrize(
    "answer", ["exit 1", "echo sha256:abc", "echo", 'case $2 in *minio*) exit 1; esac; echo "$0"']
)
def test_a_registry_that_does_not_answer_leaves_the_pins_as_they_were(pinning: Path, answer: str) -> None:
    before = (pinning / "Dockerfile").read_text()
    done = pin(pinning, answer)
    assert done.returncode != 0
    assert (pinning / "Dockerfile").read_text() == before
    assert not (pinning / "helm/llava-av/digests.yaml").exists()


def test_pins_that_are_there_are_digests() -> None:
    images = yaml.safe_load((ROOT / "helm/llava-av/values.yaml").read_text())["images"]
    digests = yaml.safe_load((ROOT / "helm/llava-av/digests.yaml").read_text())["images"]
    for name, one in digests.items():
        assert re.fullmatch(r"sha256:[0-9a-f]{64}", one["digest"]), name
        assert images[name]["digest"] == "", "a value of its own would be overridden by the file"
    assert re.search(
        r"^ARG PYTHON_IMAGE=\S+:3\.11-slim-bookworm@sha256:[0-9a-f]{64}$",
        (ROOT / "Dockerfile").read_text(),
        re.MULTILINE,
    )
