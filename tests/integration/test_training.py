"""Training jobs on real processes against a real object store."""

import contextlib
import gzip
import hashlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import torch
from prometheus_client.samples import Sample
from safetensors.torch import load_file

from llava_av.checkpoints import (
    CheckpointError,
    CheckpointFile,
    fetch_checkpoint,
    model_files,
    push_base,
    read_manifest,
    verify_checkpoint,
    whole_checkpoints,
)
from llava_av.checkpoints.shard_index import state_root
from llava_av.datasets.commits import Commit, commit_dataset
from llava_av.datasets.demo import make_demo
from llava_av.inference.model_source import local_model_folder
from llava_av.launch import JobSpec, Launcher, LaunchError, LocalLauncher
from llava_av.model import LlavaAvForConditionalGeneration, LlavaAvProcessor, load_saved_model
from llava_av.model.conversion.importing import import_model
from llava_av.processes import (
    METRICS_PORT_VARIABLE,
    PROFILE_FOLDER_VARIABLE,
    PROFILE_STEPS_VARIABLE,
    set_variables,
)
from llava_av.processes.heartbeat import SILENCE_LIMIT_VARIABLE
from llava_av.provenance.source_code import code_digest
from llava_av.recipe import load_recipe
from llava_av.recipe.renaming import first_names
from llava_av.runs import Run, RunRequest
from llava_av.runs.names import METRICS
from llava_av.services.ports import free_ports
from llava_av.storage import ObjectStore
from llava_av.tracking.journal import Journal, parse_rows
from llava_av.tracking.mlflow_run import MlflowFollower
from llava_av.training.rebuilding import rebuild_model
from llava_av.workflows.export_model import export_model
from llava_av.workflows.runtime.workspace import Workspace
from tests.artifacts import sample
from tests.exporters import check_names, scraped
from tests.fault_proxy import ALWAYS, fault_proxy
from tests.forged_files import Calls, archived
from tests.forked_group import ForkedLauncher, ForkServer
from tests.llava_samples import write_audio_tower, write_llava
from tests.model_samples import clip

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

STEPS = 6


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo")
    return root, make_demo(root, seed=0, train_blocks=1, held_out_blocks=1)


class Trained:
    """A finished training job and what it left."""

    def __init__(self, store: ObjectStore, run: str) -> None:
        self.run = run
        self.result: dict[str, Any] = store.get_json(f"runs/{run}/train.json")
        self.rows = parse_rows(store.get_bytes(f"runs/{run}/metrics.jsonl").decode())

    @property
    def digest(self) -> str:
        """Of the last checkpoint's state."""
        return self.result["checkpoint"]["digest"]

    def column(self, name: str) -> list[float]:
        return [row[name] for row in self.rows]


class Job:
    """Runs training jobs over one dataset in one store; with `forks`, torchrun starts only what is shared."""

    def __init__(
        self, environment: Mapping[str, str], demo: Any, folder: Path, forks: ForkServer | None = None
    ) -> None:
        self.environment = dict(environment)
        self.store = ObjectStore.from_env(self.environment)
        self.store.ensure_bucket()
        self.folder = folder
        self.forks = forks
        self.known: dict[str, Trained] = {}
        root, splits = demo
        self.commit = commit_dataset(self.store, "demo", root, splits, ())

    def open(
        self, run: str, *, earlier_names: bool = False, further: Sequence[Commit] = (), **overrides: Any
    ) -> int:
        """Put the run's request, as this version or an earlier one does; gives its number of processes."""
        changed = {name.replace("__", "."): value for name, value in overrides.items()}
        recipe = load_recipe("quick").with_overrides({"training.steps": STEPS, **changed})
        content = recipe.model_dump(mode="json")
        request = {
            "run": run,
            "recipe": first_names(content) if earlier_names else content,
            "dataset": {"name": self.commit.name, "commit": self.commit.id},
            "further_datasets": [{"name": one.name, "commit": one.id} for one in further],
            "experiment": {"id": "test", "sha256": "0" * 64},
        }
        git = {"commit": None, "dirty": False, "patch_sha256": None, "note": "a test"}
        self.store.put_json(f"runs/{run}/code.json", {"digest": code_digest(), "git": git})
        self.store.put_json(f"runs/{run}/request.json", request)
        return recipe.training.num_processes

    def trained(self, **overrides: Any) -> Trained:
        """Return the result of a job with these settings, trained once for several tests."""
        run = "-".join(["trained", *(str(value) for value in overrides.values())])
        if run not in self.known:
            by_torchrun = overrides["training__engine"] == "deepspeed"
            self.known[run] = self.train(run, by_torchrun=by_torchrun, **overrides)
        return self.known[run]

    def resume(self, run: str, **options: Any) -> Trained:
        """Train the same run again, from the checkpoint before its last one."""
        self.forget_the_end(run)
        return self.train(run, **options)

    def copy_forged(self, source: str, run: str, name: str, content: bytes) -> None:
        """Give a run the last checkpoint of another, with one file, its hash and the digest replaced."""
        folder = f"step-{STEPS:08}"
        manifest = self.store.get_json(f"checkpoints/{source}/{folder}/manifest.json")
        for file in manifest["files"]:
            data = content if file == name else self.store.get_bytes(f"checkpoints/{source}/{folder}/{file}")
            self.store.put_bytes(f"checkpoints/{run}/{folder}/{file}", data)
        manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        files = {file: CheckpointFile(**entry) for file, entry in manifest["files"].items()}
        manifest["digest"] = state_root(files, manifest["data_position"])
        self.store.put_json(f"checkpoints/{run}/{folder}/manifest.json", manifest)

    def forget_the_end(self, run: str) -> None:
        """Leave the bucket as a job does that is killed in its last steps."""
        self.store.delete(f"checkpoints/{run}/step-{STEPS:08}/manifest.json")
        self.store.delete(f"runs/{run}/train.json")

    def train(
        self,
        run: str,
        *,
        by_torchrun: bool = False,
        metrics_port: int | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
        **overrides: Any,
    ) -> Trained:
        port = {} if metrics_port is None else {METRICS_PORT_VARIABLE: str(metrics_port)}
        spec = JobSpec(
            name=run,
            module="llava_av.training",
            arguments=("--run", run, "--work", str(self.folder / "work" / run)),
            processes=self.open(run, **overrides),
        )
        with set_variables({**self.environment, **port, **environment}):
            self._launcher(by_torchrun).run(spec)
        return Trained(self.store, run)

    def evaluate(self, run: str) -> None:
        """Evaluate the last checkpoint of a run on the held-out split."""
        arguments = ("--run", run, "--work", str(self.folder / "work" / run))
        spec = JobSpec(
            name=f"{run}-evaluation", module="llava_av.evaluation", arguments=arguments, processes=2
        )
        with set_variables(self.environment):
            self._launcher(by_torchrun=False).run(spec)

    def _launcher(self, by_torchrun: bool) -> Launcher:
        logs = self.folder / "logs"
        forked = self.forks is not None and not by_torchrun
        return ForkedLauncher(self.forks, logs) if forked else LocalLauncher(logs)

    def train_on_nodes(self, run: str, nodes: int, **overrides: Any) -> Trained:
        """Train with one process on each node, each with its own disk."""
        assert self.open(run, **overrides) == nodes
        group = [f"--nnodes={nodes}", "--nproc-per-node=1", f"--rdzv-id={run}", "--rdzv-backend=c10d"]
        group += [f"--rdzv-endpoint=127.0.0.1:{free_ports(1)[0]}", "--local-addr=127.0.0.1"]
        settings = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        environment = {**os.environ, **settings, **self.environment}
        with contextlib.ExitStack() as stack:
            started = []
            for node in range(nodes):
                work = self.folder / f"disk-{node}"
                job = ["-m", "--", "llava_av.training", "--run", run, "--work", str(work)]
                command = [sys.executable, "-m", "torch.distributed.run", *group, *job]
                process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
                stack.callback(process.kill)
                started.append(process)
            for process in started:
                errors = process.communicate(timeout=300)[1]
                assert process.returncode == 0, errors
        return Trained(self.store, run)


@pytest.fixture(scope="module")
def job(servers, forks, demo, tmp_path_factory) -> Job:
    # nothing listens there: training must not need MLflow
    named = {"LLAVA_AV_BUCKET": f"test-{uuid.uuid4().hex}", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    return Job(
        {**servers.environment(mlflow=False), **named}, demo, tmp_path_factory.mktemp("training"), forks
    )


def settings(engine: str, *, processes: int = 2, stage: int = 2) -> dict[str, Any]:
    names = ("training__engine", "training__num_processes", "training__zero_stage")
    return dict(zip(names, (engine, processes, stage), strict=True))


def test_engines_and_numbers_of_processes_give_the_same_losses(job: Job) -> None:
    """The largest difference seen between the engines is 5e-7, between one process and two 2e-6."""
    alone = job.trained(**settings("torch", processes=1))
    plain = job.trained(**settings("torch"))
    deepspeed = job.trained(**settings("deepspeed"))
    assert plain.column("loss") == pytest.approx(deepspeed.column("loss"), abs=5e-6)
    assert plain.column("grad_norm") == pytest.approx(deepspeed.column("grad_norm"), abs=1e-3)
    assert alone.column("loss") == pytest.approx(plain.column("loss"), abs=2e-5)
    assert len({run.digest for run in (alone, plain, deepspeed)}) == 3


@pytest.mark.parametrize(
    ("engine", "stage"), [("torch", 2), pytest.param("deepspeed", 3, marks=pytest.mark.slow)]
)
def test_resumed_training_ends_with_the_digest_of_an_undisturbed_one(
    job: Job, engine: str, stage: int
) -> None:
    whole = job.trained(**settings(engine, stage=stage))
    bad_samples = f"runs/{whole.run}/bad-samples.json"
    assert not job.store.exists(bad_samples)
    before, after = ({"id": f"failed-{step}", "reason": "it is cut short", "step": step} for step in (3, 4))
    job.store.put_json(bad_samples, {"samples": [before, after]})
    resumed = job.resume(whole.run, earlier_names=True, **settings(engine, stage=stage))
    assert resumed.result["resumed_from"] == 4
    assert resumed.digest == whole.digest
    assert resumed.column("loss") == whole.column("loss")
    # The steps after the checkpoint are repeated, and no sample fails in them now.
    assert resumed.result["unfit"] == [{"id": "failed-3", "reason": "it is cut short"}]
    assert job.store.get_json(bad_samples) == {"samples": [before]}


VALIDATION: Mapping[str, Any] = MappingProxyType(
    {"training__validation_interval": 2, "training__validation_samples": 20}
)


@pytest.mark.parametrize(
    ("engine", "stage"),
    [
        ("torch", 2),
        # Stages 1 and 2 gather no weights.
        pytest.param("deepspeed", 3, marks=pytest.mark.slow),
    ],
)
def test_held_out_loss_is_measured_without_a_trace_in_the_training(job: Job, engine: str, stage: int) -> None:
    options = settings(engine, stage=stage)
    plain = job.trained(**options)
    measured = job.train(f"measured-{engine}-{stage}", **options, **VALIDATION)
    assert measured.digest == plain.digest
    assert measured.column("loss") == plain.column("loss")
    found = {row["step"] + 1: row["held_out/loss"] for row in measured.rows if "held_out/loss" in row}
    assert list(found) == [2, 4, 6]
    assert found[6] < found[2] < 10
    last = measured.rows[-1]
    by_modality = [value for name, value in last.items() if name.startswith("held_out/loss/modality/")]
    assert min(by_modality) <= last["held_out/loss"] <= max(by_modality)
    best = measured.result["best"]
    assert (best["step"], best["held_out_loss"]) == (6, found[6])
    # The demonstration's chunks of one process and of two are padded differently.
    if engine == "torch":
        alone = job.train("measured-alone", **settings("torch", processes=1), **VALIDATION)
        assert alone.rows[1]["held_out/loss"] == pytest.approx(found[2], abs=2e-5)


def test_a_mix_of_datasets_is_trained_on_in_the_same_order_by_any_number_of_processes(
    job: Job, tmp_path: Path
) -> None:
    splits = make_demo(tmp_path, seed=5, train_blocks=1, held_out_blocks=1)
    second = commit_dataset(job.store, "second", tmp_path, splits, ())
    mix = {"demo": {"weight": 1, "max_samples": 20}, "second": {"weight": 3}}
    options = {"further": (second,), "data__mix": mix, "training__warmup_kind_steps": 0, **VALIDATION}
    both = job.train("mixed", **settings("torch"), **options)
    alone = job.train("mixed-alone", **settings("torch", processes=1), **options)
    assert alone.column("loss") == pytest.approx(both.column("loss"), abs=2e-5)
    assert alone.column("mix/demo") == both.column("mix/demo")
    for row in both.rows:
        assert row["mix/demo"] + row["mix/second"] == 1
    last, first, other = both.rows[-1], *both.result["mix"]
    by_dataset = [last[f"held_out/loss/dataset/{name}"] for name in ("demo", "second")]
    assert min(by_dataset) <= last["held_out/loss"] <= max(by_dataset)
    assert (first["name"], first["samples"], first["wanted_share"]) == ("demo", 20, 0.25)
    assert other["samples"] == len(splits["train"])
    assert first["observed_share"] == pytest.approx(sum(both.column("mix/demo")) / STEPS)


def test_training_that_gets_worse_stops_early_with_its_best_checkpoint_also_after_a_kill(job: Job) -> None:
    options = {
        **settings("torch"),
        **VALIDATION,
        "training__checkpoint_interval": 2,
        "training__keep_latest_checkpoints": 1,
        "training__result_checkpoint": "best",
        "training__early_stopping_patience": 1,
        "optimizer__warmup_steps": 0,
        "optimizer__learning_rate": 0.5,
        "training__steps": 40,
    }
    stopped = job.train("stops-early", **options)
    found = {row["step"] + 1: row["held_out/loss"] for row in stopped.rows if "held_out/loss" in row}
    best, last = min(found, key=lambda step: found[step]), max(found)
    assert (stopped.result["steps"], last) == (last, best + 2)
    assert last < 40
    assert stopped.result["checkpoint"]["step"] == stopped.result["best"]["step"] == best
    assert [one.step for one in whole_checkpoints(job.store, "stops-early")] == [last, best]
    files = read_manifest(job.store, stopped.result["checkpoint"]["uri"]).files
    assert any(name.startswith("model/") for name in files)
    job.store.delete("runs/stops-early/train.json")
    again = job.train("stops-early", **options)
    assert again.result["resumed_from"] == again.result["steps"] == last
    assert again.result["best"] == stopped.result["best"]
    assert again.rows == stopped.rows


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "deepspeed"])
def test_bf16_resumes_exactly_and_saves_a_bf16_model(job: Job, tmp_path: Path, engine: str) -> None:
    options = {**settings(engine), "training__precision": "bf16"}
    whole = job.trained(**options)
    resumed = job.resume(whole.run, **options)
    assert (resumed.result["resumed_from"], resumed.digest) == (4, whole.digest)
    assert whole.digest != job.trained(**settings(engine)).digest
    assert whole.column("loss") == pytest.approx(job.trained(**settings(engine)).column("loss"), rel=0.02)
    fetch_checkpoint(job.store, whole.result["checkpoint"]["uri"], tmp_path)
    model, _ = load_saved_model(tmp_path / "model")
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("engine", ["torch", pytest.param("deepspeed", marks=pytest.mark.slow)])
def test_a_loss_that_is_not_finite_ends_training_with_the_samples(job: Job, engine: str) -> None:
    run = f"diverging-{engine}"
    every = {"training__checkpoint_interval": 1, "training__keep_latest_checkpoints": 1}
    with pytest.raises(LaunchError, match=r"training stopped at step \d: the \w+.* is not finite \(samples "):
        job.train(run, optimizer__learning_rate=1e30, **settings(engine), **every)
    report = job.store.get_json(f"runs/{run}/not-finite.json")
    assert len(report["samples"]) == load_recipe("quick").training.global_batch_size
    assert set(report["culprits"]) <= set(report["samples"])
    kept = list(whole_checkpoints(job.store, run))
    assert kept[0].step == report["step"] > 0
    assert not job.store.exists(f"runs/{run}/train.json")


@pytest.mark.slow
def test_a_stopped_rank_ends_training_with_its_name_and_the_stacks_of_the_others(job: Job) -> None:
    limit = {"training__steps": 5_000, **settings("torch")}
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(
            job.train, "stopped", by_torchrun=True, environment={SILENCE_LIMIT_VARIABLE: "5"}, **limit
        )
        journal = job.folder / "work" / "stopped" / "stopped" / "metrics.jsonl"
        until(lambda: training.done() or (journal.exists() and len(journal.read_text().splitlines()) > 2))
        [stopped] = [one for one in psutil.Process().children(recursive=True) if is_rank(one, 1)]
        stopped.suspend()
        with pytest.raises(
            LaunchError, match=rf"rank 1 \(pid {stopped.pid} on host .* sent no heartbeat for 5 s"
        ):
            training.result(timeout=60)
    log = (job.folder / "logs" / "stopped.log").read_text()
    assert "most recent call first" in log
    assert "llava_av/training/trainer.py" in log


@pytest.mark.slow
def test_profiled_training_writes_a_trace_and_a_table_and_has_the_same_digest(
    job: Job, tmp_path: Path
) -> None:
    whole = job.trained(**settings("torch"))
    variables = {PROFILE_STEPS_VARIABLE: "3", PROFILE_FOLDER_VARIABLE: str(tmp_path)}
    profiled = job.train("profiled", environment=variables, **settings("torch"))
    assert profiled.digest == whole.digest
    table = (tmp_path / "table.txt").read_text()
    rows = {line[:20].strip(): float(line[20:].split()[0]) for line in table.splitlines()}
    parts = {"data wait", "forward", "backward", "optimizer", "metrics", "checkpoint", "other"}
    assert rows.keys() == parts | {"step", "incl. communication"}
    assert sum(rows[part] for part in parts) == pytest.approx(rows["step"], abs=0.1)
    assert all(rows[part] > 0 for part in ("forward", "backward", "optimizer", "metrics", "checkpoint"))
    assert rows["incl. communication"] > 0
    trace = json.loads(gzip.decompress((tmp_path / "trace.json.gz").read_bytes()))
    names = [event.get("name") for event in trace["traceEvents"]]
    assert names.count("optimizer") == 3
    for name in ("trace.json.gz", "table.txt"):
        assert job.store.get_bytes(f"runs/profiled/profile/{name}") == (tmp_path / name).read_bytes()


@pytest.mark.slow
def test_sigterm_to_one_rank_saves_the_step_and_ends_all_and_training_goes_on(job: Job) -> None:
    run, saved = "terminated", 0
    for rank in (1, 0):
        error = _terminated(job, run, rank, after=saved + 2)
        [newest, *_] = whole_checkpoints(job.store, run)
        assert newest.step > saved
        assert f"ended by SIGTERM after step {newest.step} of 5000" in error
        assert len(parse_rows(job.store.get_bytes(f"runs/{run}/metrics.jsonl").decode())) == newest.step
        log = (job.folder / "logs" / f"{run}.log").read_text()
        assert "exitcode  : 143" in log
        assert (f"resumes from step {saved}" in log) == (saved > 0)
        saved = newest.step


def _terminated(job: Job, run: str, rank: int, after: int) -> str:
    """Train, send SIGTERM to one rank once the journal has more than `after` steps, and return the error."""
    options = {"training__steps": 5_000, "training__checkpoint_interval": 5_000, **settings("torch")}
    journal = job.folder / "work" / run / run / "metrics.jsonl"

    def is_reached() -> bool:
        return training.done() or (journal.exists() and len(journal.read_text().splitlines()) > after)

    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(job.train, run, by_torchrun=True, **options)
        until(is_reached)
        [found] = [one for one in psutil.Process().children(recursive=True) if is_rank(one, rank, run)]
        found.terminate()
        with pytest.raises(LaunchError) as caught:
            training.result(timeout=120)
    return str(caught.value)


def until(reached: Callable[[], bool], deadline_s: float = 240) -> None:
    end = time.monotonic() + deadline_s
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_rank(process: psutil.Process, rank: int, run: str = "stopped") -> bool:
    try:
        variables = process.environ()
        return variables.get("RANK") == str(rank) and run in process.cmdline()
    except psutil.Error:
        return False


def test_a_damaged_newest_checkpoint_is_passed_over_and_replaced(job: Job) -> None:
    whole = job.trained(**settings("torch"))
    job.forget_the_end(whole.run)
    uri = job.store.uri(f"checkpoints/{whole.run}/step-{4:08}")
    name = next(name for name in read_manifest(job.store, uri).files if name.startswith("state/rank"))
    key = f"{job.store.key(uri)}/{name}"
    content = bytearray(job.store.get_bytes(key))
    content[-1] ^= 1
    job.store.put_bytes(key, bytes(content))
    again = job.train(whole.run, **settings("torch"))
    assert again.result["resumed_from"] is None
    assert again.digest == whole.digest
    verify_checkpoint(job.store, uri, digest=read_manifest(job.store, uri).digest)


def test_a_model_is_built_from_the_state_of_any_checkpoint(job: Job, tmp_path: Path) -> None:
    whole = job.trained(**settings("torch"))
    with set_variables(job.environment):
        compare_rebuilt(job, whole, tmp_path)
        before_last = job.store.uri(f"checkpoints/{whole.run}/step-{4:08}")
        model, _ = load_saved_model(local_model_folder(before_last, tmp_path))
    last = load_file(tmp_path / "stored" / "model" / "model.safetensors")
    assert {name for name, one in model.state_dict().items() if not one.equal(last[name])}
    manifest = read_manifest(job.store, before_last)
    with pytest.raises(
        CheckpointError, match=rf"{before_last} .*no model.*llava-av model export {before_last}"
    ):
        model_files(manifest, before_last)


def compare_rebuilt(job: Job, trained: Trained, folder: Path) -> None:
    """Build the model from the state of the last checkpoint, and compare it with the stored one."""
    uri = trained.result["checkpoint"]["uri"]
    rebuild_model(Run(store=job.store, id=trained.run), uri, folder / "work", folder / "rebuilt")
    fetch_checkpoint(job.store, uri, folder / "stored")
    stored = {path.name: path for path in (folder / "stored" / "model").iterdir()}
    assert stored.keys() == {path.name for path in (folder / "rebuilt").iterdir()}
    for name, path in stored.items():
        rebuilt = folder / "rebuilt" / name
        if name == "adapter_config.json":
            # peft writes sets in any order.
            assert sorted(path.read_text()) == sorted(rebuilt.read_text())
            continue
        if path.suffix != ".safetensors":
            assert path.read_bytes() == rebuilt.read_bytes(), name
            continue
        weights, expected = load_file(rebuilt), load_file(path)
        # The sharded engine stores tied weights under both names.
        assert expected.keys() - weights.keys() <= {"language_model.lm_head.weight"}
        assert not [each for each, weight in weights.items() if not weight.equal(expected[each])]


def test_a_forged_checkpoint_runs_no_code_and_ends_in_one_line(job: Job, tmp_path: Path) -> None:
    whole = job.trained(**settings("deepspeed"))
    name = "state/rank-00001-0000.safetensors"
    forged = archived(Calls(os.system, f"touch {tmp_path / 'ran'}"))
    job.copy_forged(whole.run, "forged", name, forged)
    refused = rf"forged/step-{STEPS:08}: a file is not a safetensors file .*delete this"
    with pytest.raises(LaunchError, match=refused):
        job.train("forged", **settings("deepspeed"))
    assert list(tmp_path.iterdir()) == []
    assert not job.store.exists("runs/forged/train.json")


def test_prometheus_sees_a_job_that_goes_on_and_its_digest_is_the_same(job: Job) -> None:
    whole = job.trained(**settings("deepspeed"))
    [port] = free_ports(1)
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(job.resume, whole.run, metrics_port=port, **settings("deepspeed"))
        told = scrapes(port, until=training.done)
        resumed = training.result()
    assert resumed.digest == whole.digest
    labels = {"run": whole.run, "experiment": "test"}
    assert all(sample.labels == labels for scrape in told for sample in scrape)
    seen = [{sample.name: sample.value for sample in scrape} for scrape in told]
    steps = [values["llava_av_training_step"] for values in seen]
    assert steps == sorted(steps)
    assert 4 <= steps[-1] <= STEPS
    expected = {"steps_planned": STEPS, "restarts_total": 1, "resumed_step": 4}
    assert {name: seen[-1][f"llava_av_training_{name}"] for name in expected} == expected
    check_names("training", told[-1])


@pytest.mark.slow
def test_packed_training_resumes_and_loses_what_unpacked_training_loses(job: Job) -> None:
    """The same samples in fewer rows, with the tolerance that one process has against two.

    Sums are taken in another order, so weights differ from the second step on, and the digests with them.
    """
    packing = {**settings("deepspeed"), "training__pack_length": 150}
    apart = job.trained(**settings("deepspeed"))
    packed = job.train("packed", **packing)
    assert packed.column("loss") == pytest.approx(apart.column("loss"), abs=2e-5)
    by_kind = {name for row in apart.rows for name in row if name.startswith("loss/")}
    for first, second in zip(apart.rows, packed.rows, strict=True):
        assert {name: second.get(name) for name in by_kind} == {
            name: None if name not in first else pytest.approx(first[name], abs=1e-4) for name in by_kind
        }
    resumed = job.resume("packed", **packing)
    assert resumed.result["resumed_from"] == 4
    assert resumed.digest == packed.digest
    with pytest.raises(LaunchError, match=r"sample .*: \d+ tokens, but training\.pack_length=20"):
        job.train("narrow", training__pack_length=20)


@pytest.mark.slow
def test_zero_3_exports_a_whole_model_that_says_what_zero_2s_says(job: Job, tmp_path: Path) -> None:
    """Single weights differ by up to 2e-4, as the first steps of Adam make of any gradient a whole step.

    Weights that no gradient reaches, such as biases of keys, have rounding errors alone for one.
    """
    losses, weights = [], []
    for stage in (2, 3):
        options = {"training__zero_stage": stage, "training__steps": 2, "optimizer__max_grad_norm": 1e9}
        trained = job.train(f"stage-{stage}", **options)
        folder = tmp_path / f"stage-{stage}"
        fetch_checkpoint(job.store, trained.result["checkpoint"]["uri"], folder)
        model, info = LlavaAvForConditionalGeneration.from_pretrained(
            folder / "model", output_loading_info=True
        )
        assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert trained.result["parameters"] == sum(weight.numel() for weight in model.parameters())
        weights.append(model.state_dict())
        processor = LlavaAvProcessor.from_pretrained(folder / "model")
        batch = processor.collate([processor.encode([("human", "What?"), ("gpt", "red")], clip())])
        losses.append(model.eval()(**batch).loss.item())
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, atol=4e-3, rtol=0)
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the loopback interface has another name elsewhere")
def test_nodes_with_disks_of_their_own_write_and_read_one_checkpoint(job: Job) -> None:
    whole = job.trained(**settings("deepspeed"))
    apart = job.train_on_nodes("apart", 2)
    assert apart.digest == whole.digest
    job.forget_the_end("apart")
    resumed = job.train_on_nodes("apart", 2)
    assert resumed.result["resumed_from"] == 4
    assert resumed.digest == whole.digest


def test_every_step_tells_what_a_run_is_judged_by(job: Job) -> None:
    trained = job.trained(**settings("deepspeed"))
    assert trained.column("step") == list(range(STEPS))
    assert trained.result["mlflow_run_id"] is None
    expected = {"loss", "learning_rate", "grad_norm", "tokens_per_s", "memory_mib"}
    expected |= {"time_s", "step_s", "data_wait_s", "checkpoint_stall_s", "padding_share", "tflops_per_gpu"}
    expected |= {"tokens_per_s_per_gpu", "samples_per_s_per_gpu"}
    assert all(expected <= set(row) for row in trained.rows)
    assert all(0 <= row["data_wait_s"] <= row["step_s"] for row in trained.rows[1:])
    batch_size = load_recipe("quick").training.global_batch_size
    for row in trained.rows:
        assert row["samples_per_s_per_gpu"] * row["step_s"] * 2 == pytest.approx(batch_size)
        assert row["tokens_per_s_per_gpu"] * 2 == pytest.approx(row["tokens_per_s"])
        assert 0 <= row["padding_share"] < 1
        assert row["tflops_per_gpu"] > 0
    assert not any("mfu" in row for row in trained.rows), "a CPU has no peak"
    stalls = trained.column("checkpoint_stall_s")
    assert [step for step, stall in enumerate(stalls) if stall] == [4]
    # the first steps ask about tones alone
    first = load_recipe("quick").training.warmup_kind_steps
    named = [
        {name for name in row if name.startswith(("loss/kind", "loss/modality"))} for row in trained.rows
    ]
    assert named[:first] == [{"loss/kind/audio", "loss/modality/audio"}] * first
    assert all("loss/modality/video_audio" in names for names in named[first:])
    assert {"loss/visual", "loss/audio", "loss/joint"} <= {name for row in trained.rows for name in row}
    assert trained.rows[-1]["loss"] < trained.rows[0]["loss"]


def test_metrics_and_parameters_reach_mlflow_once_it_is_there(
    job: Job, mlflow_environment, monkeypatch
) -> None:
    from mlflow import MlflowClient

    from llava_av.tracking.mlflow_run import catch_up

    trained = job.trained(**settings("deepspeed"))
    for name, value in mlflow_environment.items():
        monkeypatch.setenv(name, value)
    request = Run(store=job.store, id=trained.run).request()
    first = catch_up(request, trained.rows[:3])
    assert catch_up(request, trained.rows) == first
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    history = client.get_metric_history(first, "train/loss")
    assert sorted((metric.step, metric.value) for metric in history) == list(
        enumerate(trained.column("loss"))
    )
    run = client.get_run(first)
    assert run.data.params["dataset_commit"] == job.commit.id
    assert run.data.params["training.global_batch_size"] == "16"
    assert run.info.status == "FINISHED"
    earlier = client.create_run(run.info.experiment_id, tags={"llava_av.run": "earlier"}).info.run_id
    client.log_param(earlier, "training.samples_per_step", 16)
    assert catch_up(request.model_copy(update={"run": "earlier"}), trained.rows) == earlier
    assert client.get_run(earlier).data.params == {"training.samples_per_step": "16"}


def test_a_follower_logs_many_rows_with_many_metrics(mlflow_environment, monkeypatch, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    for name, value in mlflow_environment.items():
        monkeypatch.setenv(name, value)
    journal = Journal(tmp_path / METRICS)
    for step in range(70):
        journal.append({"step": step, "loss": step / 7} | {f"loss/kind/{kind}": 1.0 for kind in range(30)})
    followed = MlflowFollower(sample(RunRequest).model_copy(update={"run": "followed"}), journal).finish()
    assert followed is not None
    history = MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).get_metric_history(followed, "train/loss")
    assert sorted((metric.step, metric.value) for metric in history) == [(n, n / 7) for n in range(70)]


def test_artifacts_that_mlflow_refuses_do_not_end_training(
    job: Job, forks, demo, mlflow_environment, monkeypatch, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    from llava_av.tracking.mlflow_run import catch_up

    uri = mlflow_environment["MLFLOW_TRACKING_URI"]
    with fault_proxy(urlsplit(uri).netloc) as proxy:
        proxy.fail("no artifacts", ALWAYS)
        login = {
            name: value for name, value in mlflow_environment.items() if name.startswith("MLFLOW_TRACKING")
        }
        refused = Job({**job.environment, **login, "MLFLOW_TRACKING_URI": proxy.url}, demo, tmp_path, forks)
        trained = refused.train("refused", **settings("torch", processes=1))
    assert trained.result["mlflow_run_id"] is None
    assert trained.result["checkpoint"]["step"] == STEPS
    assert (tmp_path / "logs" / "refused.log").read_text().count("training continues") == 1
    for name, value in mlflow_environment.items():
        monkeypatch.setenv(name, value)
    client = MlflowClient(uri)
    (experiment,) = client.search_experiments(filter_string="name = 'test'")
    (run,) = client.search_runs([experiment.experiment_id], "tags.`llava_av.run` = 'refused'")
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == STEPS
    request = Run(store=job.store, id="refused").request()
    assert catch_up(request, trained.rows) == run.info.run_id
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == STEPS
    assert [artifact.path for artifact in client.list_artifacts(run.info.run_id)] == ["recipe.json"]


def test_an_imported_model_in_s3_is_trained_in_part(job: Job, tmp_path: Path) -> None:
    source = write_llava("llava_onevision", tmp_path / "source")
    import_model(source, tmp_path / "model", audio=write_audio_tower(tmp_path / "audio"))
    pushed = push_base(job.store, tmp_path / "model", "tiny")
    assert push_base(job.store, tmp_path / "model", "tiny") == pushed
    assert read_manifest(job.store, pushed.uri).digest == pushed.digest
    model = {
        "base": pushed.uri,
        "base_digest": pushed.digest,
        "trainable_parts": ["vision_connector", "audio_connector", "language", "embeddings"],
    }
    # from all kinds of sample: the first steps of the recipe would show no picture
    options = {"training__engine": "torch", "training__steps": 2, "training__warmup_kind_steps": 0}
    trained = job.train("based", model=model, **options)
    assert trained.result["processes"] == 2
    fetch_checkpoint(job.store, trained.result["checkpoint"]["uri"], tmp_path / "got")
    before = load_file(tmp_path / "model" / "model.safetensors")
    after = load_file(tmp_path / "got" / "model" / "model.safetensors")
    changed = {name.split(".")[0] for name in before if not before[name].equal(after[name])}
    assert changed == {"audio_projector", "vision_projector", "newline", "language_model"}
    (tmp_path / "model" / "note.txt").write_text("another model of that name")
    with pytest.raises(CheckpointError):
        push_base(job.store, tmp_path / "model", "tiny")


@pytest.mark.slow
def test_an_adapter_resumes_exactly_and_is_exported(job: Job, tmp_path: Path) -> None:
    source = write_llava("llava_onevision", tmp_path / "source")
    import_model(source, tmp_path / "model", audio=write_audio_tower(tmp_path / "audio"))
    pushed = push_base(job.store, tmp_path / "model", "adapted")
    model = {
        "base": pushed.uri,
        "base_digest": pushed.digest,
        "trainable_parts": ["vision_connector", "audio_connector"],
        "adapter": {"rank": 2, "dropout": 0.1},
    }
    options = {**settings("deepspeed"), "model": model, "training__precision": "bf16"}
    whole = job.train("ada97edada97edad", **options)
    resumed = job.resume(whole.run, **options)
    assert (resumed.result["resumed_from"], resumed.digest) == (4, whole.digest)
    job.evaluate(whole.run)
    assert job.store.get_json(f"runs/{whole.run}/evaluation.json")["checkpoint"]["digest"] == whole.digest
    workspace = Workspace(folder=tmp_path / "out")
    with set_variables(job.environment):
        for name, kind in (("0", "adapter"), ("1", "merged model")):
            merged = kind == "merged model"
            assert export_model(workspace, whole.run, tmp_path / name, merged=merged) == kind
        compare_rebuilt(job, whole, tmp_path)
    joined, processor = load_saved_model(tmp_path / "1")
    adapted, _ = load_saved_model(tmp_path / "0", tmp_path / "model")
    batch = processor.collate([processor.encode([("human", "Which?"), ("gpt", "red")], clip())])
    with torch.no_grad():
        assert float(joined(**batch).loss) == pytest.approx(float(adapted(**batch).loss), rel=0.01)


def scrapes(port: int, *, until: Callable[[], bool]) -> list[list[Sample]]:
    """Return the answers of the job to repeated requests, until it ends."""
    answers = []
    while not until():
        with contextlib.suppress(OSError):
            answers.append(scraped(f"http://127.0.0.1:{port}/metrics"))
    return answers
