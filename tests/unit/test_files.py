import errno
import stat
from pathlib import Path

import numpy as np
import pytest

from llava_av.files import whole_file, write_array, write_whole


def test_a_file_is_replaced_whole_and_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "made" / "a.txt"
    write_whole(path, "größer\n")
    path.chmod(0o640)
    write_whole(path, b"\x00\r\n")
    assert path.read_bytes() == b"\x00\r\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]


def test_a_private_file_is_never_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("old")
    path.chmod(0o644)
    write_whole(path, "new", mode=0o600)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", 0o600)


def test_a_writer_that_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_and_fail() -> None:
        with whole_file(path) as part:
            part.write_text("half")
            raise RuntimeError("full")

    with pytest.raises(RuntimeError, match="full"):
        write_and_fail()
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.txt", "old")]


@pytest.mark.parametrize(
    "array", [np.arange(12), np.zeros((0, 3)), np.asfortranarray(np.ones((2, 3), np.uint8))]
)
def test_an_array_is_written_as_numpy_writes_it(tmp_path: Path, array: np.ndarray) -> None:
    with (tmp_path / "array").open("wb") as file:
        write_array(file, array)
    np.testing.assert_array_equal(np.load(tmp_path / "array"), array)


def test_an_array_on_a_full_disk_has_the_number_of_the_error() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(OSError, match="space") as caught, Path("/dev/full").open("wb") as full:
        write_array(full, np.zeros(100_000))
    assert caught.value.errno == errno.ENOSPC
