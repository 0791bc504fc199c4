"""MinIO with the users and policies that the chart creates."""

import importlib.util
import os
import uuid
from collections.abc import Callable
from types import ModuleType

import pytest

from tests.commands import ROOT
from tests.integration.rights.users import BUCKET, ROOT_USER


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """Load the script of the chart that creates the users."""
    path = ROOT / "helm" / "llava-av" / "files" / "prepare_services.py"
    spec = importlib.util.spec_from_file_location("prepare_services", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def environment_of(script: ModuleType) -> Callable[[str], dict[str, str]]:
    """Make the users as the chart does; the variables of each: `root`, `steps`, `jobs` and `serving`."""
    root = {name: os.environ[variable] for name, variable in ROOT_USER.items()}
    prefixes = {"steps": "", "jobs": "JOB_", "serving": "SERVING_"}
    keys = {user: (f"{user}-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex) for user in prefixes}
    given = {
        "AWS_ENDPOINT_URL_S3": root["AWS_ENDPOINT_URL_S3"],
        "S3_ROOT_USER": root["AWS_ACCESS_KEY_ID"],
        "S3_ROOT_PASSWORD": root["AWS_SECRET_ACCESS_KEY"],
    }
    for user, prefix in prefixes.items():
        given[f"{prefix}AWS_ACCESS_KEY_ID"], given[f"{prefix}AWS_SECRET_ACCESS_KEY"] = keys[user]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in given.items():
            patch.setenv(name, value)
        script.make_minio_users([BUCKET])
        script.make_bucket(BUCKET)

    def variables(user: str) -> dict[str, str]:
        access, secret = keys.get(user, (root["AWS_ACCESS_KEY_ID"], root["AWS_SECRET_ACCESS_KEY"]))
        own = {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret}
        return {**root, **own, "LLAVA_AV_BUCKET": BUCKET}

    return variables
