"""Threads that write the files of a request whose client leaves."""

import asyncio
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from llava_av.serving.file_threads import finish_in_thread


def test_a_cancelled_caller_deletes_its_folder_after_the_last_file(tmp_path: Path) -> None:
    begun, may_write = threading.Event(), threading.Event()

    def write(file: Path) -> None:
        begun.set()
        assert may_write.wait(30)
        file.touch()

    async def write_in_folder() -> None:
        with TemporaryDirectory(dir=tmp_path) as folder:
            await finish_in_thread(write, Path(folder, "file"))

    async def cancelled() -> None:
        task = asyncio.create_task(write_in_folder())
        await asyncio.to_thread(begun.wait, 30)
        task.cancel()
        await asyncio.wait([task], timeout=0.1)
        assert list(tmp_path.iterdir())
        may_write.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert not list(tmp_path.iterdir())


def test_results_and_errors_are_passed_on() -> None:
    assert asyncio.run(finish_in_thread(max, 1, 2)) == 2
    with pytest.raises(ZeroDivisionError):
        asyncio.run(finish_in_thread(divmod, 1, 0))
