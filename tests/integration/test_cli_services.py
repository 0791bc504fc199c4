"""`llava-av services` keeps a folder's servers running between commands."""

import base64
import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.commands import called_here, llava_av

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def test_servers_stay_up_until_they_are_stopped(tmp_path: Path) -> None:
    folder = ["--output-dir", str(tmp_path / "out")]
    assert called_here("services", "status", *folder) == (1, "not running\n")
    code, refused = called_here("services", "up", *folder)
    assert (code, f"{tmp_path / 'out'} has no store" in refused, (tmp_path / "out").exists()) == (
        1,
        True,
        False,
    )
    code, shown = llava_av(["services", "up", "--create", *folder], tmp_path, outlived=True)
    try:
        assert code == 0, shown
        assert called_here("services", "status", *folder) == (0, shown)
        pages = next(line.split()[1] for line in shown.splitlines() if line.startswith("MLflow"))
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(pages)
        keys = json.loads((tmp_path / "out" / "state" / "credentials.json").read_text())
        assert keys["mlflow_password"] not in shown
        asked = urllib.request.Request(pages, headers=basic(keys["mlflow_user"], keys["mlflow_password"]))
        with urllib.request.urlopen(asked) as page:
            assert page.status == 200
        code, listed = called_here("data", "show", "absent", *folder)
        assert code == 1
        assert "absent" in listed
    finally:
        assert llava_av(["services", "down", *folder], tmp_path) == (0, "stopped\n")
    assert called_here("services", "down", *folder) == (0, "none were running\n")
    assert called_here("services", "status", *folder) == (1, "not running\n")
