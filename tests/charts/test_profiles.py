"""Tests of the profiles' golden files and of the table of values, which tests/charts/generate writes."""

import pytest
import yaml

from tests.charts.chart import CHART, GOLDEN, PROFILES, objects, template
from tests.charts.generating import README, documented, find, golden, leaves, with_table


@pytest.mark.parametrize("profile", PROFILES)
def test_profile_renders_its_golden_file(profile: str) -> None:
    assert golden(profile) == (GOLDEN / f"{profile}.yaml").read_text(), "run tests/charts/generate"


@pytest.mark.parametrize("profile", PROFILES)
def test_helm_3_renders_the_same(profile: str) -> None:
    assert golden(profile, "helm3") == (GOLDEN / f"{profile}.yaml").read_text()


def test_nothing_is_random_or_looked_up() -> None:
    # `helm template` and Argo CD must not change passwords.
    sources = [path.read_text() for path in (CHART / "templates").rglob("*") if path.is_file()]
    words = ("lookup", "randAlphaNum", "randBytes", "genPrivateKey", "genSelfSignedCert", "uuidv4", "now |")
    assert not [word for word in words if any(word in source for source in sources)]


def test_no_secret_has_a_value() -> None:
    for profile in PROFILES:
        secrets = [one for one in objects(template(profile=profile)) if one["kind"] == "Secret"]
        assert all("data" not in one and "stringData" not in one for one in secrets)
        assert bool(secrets) == (profile != "production")


def test_table_of_values_is_up_to_date() -> None:
    text = README.read_text()
    assert with_table(text) == text, "run tests/charts/generate"


def test_every_value_is_documented() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    known = dict(documented())
    for path in leaves(values):
        parts = path.split(".")
        assert any(".".join(parts[:depth]) in known for depth in range(1, len(parts) + 1)), path
    for path, meaning in known.items():
        find(values, path)
        assert meaning.endswith("."), path
