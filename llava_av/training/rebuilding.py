"""Model of a checkpoint without `model/`: the model that its stage started with, and the trained weights."""

from pathlib import Path

from llava_av.checkpoints import CheckpointError, fetch_checkpoint, read_manifest
from llava_av.checkpoints.shard_files import ShardReader, read_tensors
from llava_av.checkpoints.shard_index import BUFFERS, SHARD_INDEX, ShardIndex, parse_index, state_root
from llava_av.model import LlavaAvForConditionalGeneration
from llava_av.runs import Run
from llava_av.training.engines import FrozenFragment, compute_dtype
from llava_av.training.engines.interface import persistent_buffers
from llava_av.training.job_context import JobContext, load_model, read_datasets
from llava_av.training.model_folder import write_model_folder
from llava_av.training.safe_loading import loading_from
from llava_av.training.sharded_state import frozen_checksums
from llava_av.training.stages import stage_of_checkpoint

__all__ = ["rebuild_model"]


def rebuild_model(run: Run, uri: str, work: Path, target: Path) -> None:
    """Write the Hugging Face folder that the checkpoint would have as the last one of its stage.

    Args:
        run: The run.
        uri: s3://… of one of its checkpoints.
        work: Folder for the files that are needed: dataset, base model and state.
        target: Folder to create.

    Raises:
        CheckpointError: The checkpoint is damaged, or the model that the run started with has changed since.
    """
    manifest, request = read_manifest(run.store, uri), run.request()
    stage = stage_of_checkpoint(request.recipe, run, manifest.step)
    job = JobContext(run=run, request=request, stage=stage, work=work, rank=0, processes=1)
    model, processor = load_model(job, read_datasets(job).select(job.recipe).train)
    if state_root(manifest.files, manifest.data_position) != manifest.digest:
        raise CheckpointError(
            f"checkpoint {uri}: its state does not have the digest {manifest.digest[:12]} of its manifest: "
            "use another checkpoint"
        )
    names = [name for name in manifest.files if name.startswith((SHARD_INDEX, BUFFERS, "state/rank-"))]
    folder = work / "states" / manifest.digest
    fetch_checkpoint(run.store, uri, folder, names)
    with loading_from(uri):
        index = parse_index((folder / SHARD_INDEX).read_bytes())
        _require_same_frozen(model, index, uri, job)
        _load(model, index, folder)
    write_model_folder(target, model, processor, job.recipe, model.state_dict())


def _load(model: LlavaAvForConditionalGeneration, index: ShardIndex, folder: Path) -> None:
    with ShardReader(folder, index) as reader:
        for name, weight in model.named_parameters():
            if name in index.updates:
                reader.read_into(weight.data.view(-1), "weight", name, 0)
    saved = read_tensors(folder / BUFFERS)
    for name, buffer in persistent_buffers(model).items():
        buffer.copy_(saved[name])


def _require_same_frozen(
    model: LlavaAvForConditionalGeneration, index: ShardIndex, uri: str, job: JobContext
) -> None:
    frozen = [
        FrozenFragment(name=name, start=0, values=weight.detach().reshape(-1))
        for name, weight in model.named_parameters()
        if name not in index.updates
    ]
    dtype = compute_dtype(job.recipe.training.precision)
    if frozen_checksums(frozen, dtype, None) != index.frozen:
        raise CheckpointError(
            f"checkpoint {uri}: frozen weights differ from those that the run started with: use "
            "the code and the base model of that time"
        )
