"""Ingest by several processes: the commit of one process, also after a kill; on a real object store."""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from llava_av import launch
from llava_av.datasets.commits import find_commit
from llava_av.datasets.ingest_results import INGESTS
from llava_av.launch import LaunchError
from llava_av.services.ports import free_ports
from llava_av.storage import ObjectStore
from llava_av.workflows.ingest.launching import ingest_spec, run_ingest
from llava_av.workflows.ingest.request import CommitRequest
from llava_av.workflows.runtime.job_target import LOCAL_TARGET
from llava_av.workflows.runtime.workspace import Workspace
from tests.dataset_folders import (
    SAMPLES,
    DataCommands,
    upload,
    write_conversations,
    write_dataset,
    write_grey_image,
)
from tests.fault_proxy import ALWAYS, fault_proxy
from tests.forked_group import ForkedLauncher, ForkServer

pytestmark = pytest.mark.integration

IMAGES = 8


@pytest.fixture
def _forked(forks: ForkServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "LocalLauncher", partial(ForkedLauncher, forks))


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Return a folder with eleven files, one of which does not decode."""
    folder = write_dataset(tmp_path / "many")
    names = [f"media/{number}.png" for number in range(IMAGES)]
    for number, name in enumerate(names):
        write_grey_image(folder / name, 10 * number + 5)
    (folder / names[-1]).write_bytes((folder / names[-1]).read_bytes()[:60])
    write_conversations(folder, [*SAMPLES, *({"id": name, "image": name} for name in names)])
    return folder


def request(source: str | Path, **changes: object) -> CommitRequest:
    given = {"source": str(source), "held_out_share": 0.3, "max_bad_share": 0.5, **changes}
    return CommitRequest.model_validate(given)


def results(store: ObjectStore) -> dict[str, str]:
    """Return the facts that an unfinished ingest has stored."""
    found: dict[str, str] = {}
    for info in store.list(INGESTS):
        found |= store.get_json(info.key)
    return found


def use(store_environment: Mapping[str, str], bucket: str, patch: pytest.MonkeyPatch) -> ObjectStore:
    """Use another bucket of the store in this process and those that it starts."""
    for name, value in {**store_environment, "LLAVA_AV_BUCKET": bucket}.items():
        patch.setenv(name, value)
    store = ObjectStore.from_env()
    store.ensure_bucket()
    return store


@pytest.mark.usefixtures("_forked")
@pytest.mark.parametrize("remote", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_any_number_of_processes_makes_the_same_commit(
    store_environment: Mapping[str, str],
    store: ObjectStore,
    many: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    remote: bool,
) -> None:
    source = upload(store.in_bucket(store.bucket), many, "raw/many") if remote else str(many)
    alone = request(source).commit(store, None)
    workspace = Workspace(folder=tmp_path / "out")
    for processes in (1, 2, 3):
        other = use(store_environment, f"{store.bucket}-{processes}", monkeypatch)
        done = run_ingest(workspace, request(source), LOCAL_TARGET, processes)
        assert (done.commit, done.unchanged) == (alone.commit, False)
        assert [bad.file for bad in find_commit(other, "many").manifest.quarantined] == ["media/7.png"]
        assert results(other) == {}
        decoded = sum(len(other.get_json(info.key)) for info in other.list("datasets/.checks/"))
        assert decoded == len(SAMPLES) + IMAGES
        again = run_ingest(workspace, request(source, depth="headers"), LOCAL_TARGET, processes)
        assert (again.commit, again.unchanged) == (alone.commit, True)


@pytest.mark.usefixtures("_forked")
def test_a_killed_ingest_continues_without_reading_again(
    store_environment: Mapping[str, str],
    store: ObjectStore,
    many: Path,
    tmp_path: Path,
    forks: ForkServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prefix = upload(store, many, "raw/many")
    alone = request(prefix).commit(use(store_environment, f"{store.bucket}-alone", monkeypatch), None)
    workspace = Workspace(folder=tmp_path / "out")
    with fault_proxy(urlsplit(store_environment["AWS_ENDPOINT_URL_S3"]).netloc) as proxy:
        monkeypatch.setenv("LLAVA_AV_SOURCE_AWS_ENDPOINT_URL_S3", proxy.url)
        monkeypatch.setenv("LLAVA_AV_SOURCE_LLAVA_AV_S3_RETRY_S", "1")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(f"LLAVA_AV_SOURCE_{name}", store_environment[name])
        target = use(store_environment, f"{store.bucket}-killed", monkeypatch)
        spec = ingest_spec(workspace, request(prefix), LOCAL_TARGET, 2)
        with pytest.raises(LaunchError, match="SIGKILL"):
            ForkedLauncher(forks, workspace.logs).run(replace(spec, module="tests.killed_ingest"))
        read = [key.rpartition("/")[2] for key in results(target) if key.startswith("digest ")]
        assert read
        assert not target.exists("datasets/many/refs/main")
        proxy.only = read[0]
        proxy.fail("500", ALWAYS)
        done = run_ingest(workspace, request(prefix), LOCAL_TARGET, 2)
        assert not proxy.met
    assert done.commit == alone.commit
    assert results(target) == {}
    assert "rank 0 of 2 finds" in (workspace.logs / "ingest.log").read_text()


@pytest.mark.usefixtures("_forked")
def test_the_command_commits_with_several_processes(
    data: DataCommands, many: Path, store: ObjectStore, tmp_path: Path
) -> None:
    options = ("--processes", "2", "--max-bad-share", "0.5", "--check", "headers", "-m", "By two")
    done = data.json("commit", many, "--name", "clips", *options)
    [entry] = data.json("log", "clips")
    assert (entry["commit"], entry["message"]) == (done["commit"], "By two")
    assert data.json("show", "clips")["pending"] == len(data.json("ls", "clips", "--files"))
    again = data.json("commit", many, "--name", "clips", *options[:4])
    assert (again["commit"], again["unchanged"]) == (done["commit"], True)
    assert data.json("show", "clips")["pending"] == 0
    text = data.error("commit", many, "--launcher", "kubernetes", "--processes", "2")
    assert f"the folder {many}" in " ".join(text.split())
    assert "s3://BUCKET/PREFIX" in text


@pytest.mark.slow
def test_torchrun_starts_the_processes(data: DataCommands, clips: Path) -> None:
    done = data.json("commit", clips, "--processes", "2")
    again = data.json("commit", clips)
    assert (again["commit"], again["unchanged"]) == (done["commit"], True)


@contextlib.contextmanager
def two_agents(
    modules: Sequence[str], arguments: Sequence[str], log: Path
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run a module under each of two agents of torchrun, which join at the first, as on two machines."""
    rendezvous = ("--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_ports(1)[0]}", "--rdzv-id=ingest")
    group = ("--nnodes=2", "--nproc-per-node=1", "--max-restarts=0", "--local-addr=127.0.0.1")
    torchrun = (sys.executable, "-m", "torch.distributed.run", *rendezvous, *group)
    with log.open("wb") as output, contextlib.ExitStack() as stack:
        agents = []
        for module, is_host in zip(modules, ("true", "false"), strict=True):
            command = [*torchrun, f"--rdzv-conf=is_host={is_host}", "-m", "--", module, *arguments]
            agents.append(stack.enter_context(subprocess.Popen(command, stdout=output, stderr=output)))
            stack.callback(agents[-1].kill)
        yield agents


@pytest.mark.slow
def test_the_others_end_and_continue_after_a_machine_was_lost(
    store_environment: Mapping[str, str],
    store: ObjectStore,
    many: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from llava_av.processes.heartbeat import SILENCE_LIMIT_VARIABLE

    prefix = upload(store, many, "raw/many")
    spec = ingest_spec(Workspace(folder=tmp_path / "out"), request(prefix), LOCAL_TARGET, 2)
    alone = request(prefix).commit(use(store_environment, f"{store.bucket}-alone", monkeypatch), None)
    target = use(store_environment, f"{store.bucket}-lost", monkeypatch)
    monkeypatch.setenv(SILENCE_LIMIT_VARIABLE, "5")
    monkeypatch.setenv("KILL_PARENT", "yes")
    log = tmp_path / "lost.log"
    with two_agents((spec.module, "tests.killed_ingest"), spec.arguments, log) as agents:
        assert [agent.wait(120) for agent in agents] == [1, -signal.SIGKILL], log.read_text()
    assert "sent no heartbeat for 5 s" in log.read_text()
    assert not target.exists("datasets/many/refs/main")
    log = tmp_path / "again.log"
    with two_agents((spec.module, spec.module), spec.arguments, log) as agents:
        assert [agent.wait(120) for agent in agents] == [0, 0], log.read_text()
    assert "of 2 finds" in log.read_text()
    assert find_commit(target, "many").id == alone.commit


def test_gc_deletes_the_results_of_ingests_that_were_given_up(
    data: DataCommands, clips: Path, store: ObjectStore
) -> None:
    data.text("commit", clips)
    store.put_json(f"{INGESTS}0123456789abcdef-0.json", {"digest x": "y"})
    data.text("gc", "--delete")
    assert results(store) == {"digest x": "y"}
    data.text("gc", "--delete", "--older-than-days", "0")
    assert results(store) == {}
    assert json.loads(data.text("gc", "--json"))["commits"] == []
