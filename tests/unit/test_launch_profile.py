"""Job profiles: those in the repository, and errors that name field, value and allowed range."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_av.launch.profile import JobProfile, ProfileError, load_profile, quantity
from llava_av.named_files import FileKind, default_folder


@pytest.mark.parametrize("name", ["cpu", "gpu-8", "gpu-4x8"])
def test_profiles_of_the_repository_load(name: str) -> None:
    assert (default_folder(FileKind.PROFILES) / f"{name}.yaml").is_file()
    assert load_profile(name).image


def test_overrides_replace_fields_and_entries() -> None:
    profile = load_profile("gpu-4x8", {"nodes": "2", "environment.NCCL_DEBUG": "INFO", "cpu": 8})
    assert (profile.nodes, profile.cpu, profile.environment["NCCL_DEBUG"]) == (2, "8", "INFO")
    assert profile.environment["NCCL_IB_HCA"] == "mlx5"


def test_file_may_leave_the_image_to_an_override(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("nodes: 2\n")
    assert load_profile(str(file), {"image": "a@sha256:1"}).image == "a@sha256:1"
    with pytest.raises(ProfileError, match=r"mine\.yaml: image: Field required"):
        load_profile(str(file))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image: x\nnode: 2", r"node: unknown field; did you mean nodes\?"),
        ("image: x\nnodes: 0", "nodes: Input should be greater than or equal to 1, got 0"),
        ("image: x\ncpu: 1x", "cpu: .*'1x' must be a Kubernetes quantity such as 500m, 8 or 64Gi"),
        ("image: x\nmemory: 0", "memory: .*'0' must be > 0"),
        ("image: x\nnamespace: A_B", "namespace: String should match pattern"),
        ("image: [", "not valid YAML"),
        ("- image", "must be a mapping .*got list; see k8s/profiles/cpu.yaml"),
    ],
)
def test_wrong_file_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ProfileError, match=said) as told:
        load_profile(str(file))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"gpus": 8}, "unknown field 'gpus'; .*gpus_per_node"),
        ({"nodes.x": 1}, "'nodes.x'.*nodes has no entries"),
        (
            {"session_credentials": True, "credentials_secret": None},
            "session_credentials: .*requires credentials_secret, .*, got True",
        ),
        ({"retries": -1}, "retries: Input should be greater than or equal to 0, got -1"),
    ],
)
def test_wrong_override_is_named(overrides: dict[str, object], said: str) -> None:
    with pytest.raises(ProfileError, match=said):
        load_profile("cpu", overrides)


def test_profile_may_be_its_own_json() -> None:
    profile = load_profile("gpu-4x8")
    assert load_profile(profile.model_dump_json()) == profile
    assert load_profile('{"image": "x"}', {"nodes": 2}).nodes == 2
    with pytest.raises(ProfileError, match=r"profile in JSON: nodes: .* greater than or equal to 1, got 0"):
        load_profile('{"image": "x", "nodes": 0}')
    with pytest.raises(ProfileError, match=r"profile in JSON: .*line 1 column 2"):
        load_profile("{nonsense")


def test_unknown_profile_names_the_known() -> None:
    with pytest.raises(ProfileError, match=r"no profile 'moon'; give the path .* cpu, gpu-4x8, gpu-8"):
        load_profile("moon")


@pytest.mark.parametrize(
    ("text", "value"),
    [("500m", 0.5), ("8", 8), ("1.5", 1.5), ("64Gi", 64 * 2**30), ("1k", 1000), ("2e3", 2000)],
)
def test_quantities(text: str, value: float) -> None:
    assert quantity(text) == pytest.approx(value)


@given(st.integers(1, 2**40), st.sampled_from(["Ki", "Mi", "Gi", "k", "M", "G", "m", ""]))
def test_quantities_keep_their_order(number: int, scale: str) -> None:
    assert quantity(f"{number}{scale}") < quantity(f"{number + 1}{scale}")
    assert JobProfile(image="x", memory=f"{number}{scale}").memory == f"{number}{scale}"
