"""Section `training`: batches, order, engine and checkpoints of the training loop."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from llava_av.recipe.section import MOST_STEPS, Section

__all__ = ["TrainingRecipe"]


class TrainingRecipe(Section):
    """Training loop."""

    section: ClassVar[str] = "training"

    steps: int = Field(ge=1, le=MOST_STEPS)
    """Optimizer steps."""
    epochs: float | None = Field(default=None, gt=0, le=1_000_000)
    """Passes over the training samples, in place of `steps`, which opening a run computes; not with `stages`,
    which have their own."""
    global_batch_size: int = Field(ge=1, le=10_000_000)
    """Samples of one optimizer step over all processes; their order does not depend on `num_processes`."""
    pack_length: int | None = Field(default=None, ge=1, le=MOST_STEPS)
    """Tokens of a row into which samples are packed, without attention between them; null: one sample per
    row."""
    micro_batch_tokens: int | None = Field(default=None, ge=1, le=MOST_STEPS)
    """Maximum tokens of one forward and backward pass of a process, with padding; a step runs as many as it
    needs and adds up their gradients. Null: one pass."""
    max_non_finite_steps: int = Field(default=1, ge=1, le=MOST_STEPS)
    """Number of steps in a row whose loss or gradient is not finite at which training stops; such steps
    update nothing."""
    warmup_kinds: tuple[str, ...] = ()
    """Kinds of sample that the first steps draw from alone, such as one modality before both together."""
    warmup_kind_steps: int = Field(default=0, ge=0, le=MOST_STEPS)
    """Optimizer steps that draw from `warmup_kinds`; they draw from all kinds if a dataset has none of
    these."""
    num_processes: int = Field(default=2, ge=1, le=100_000)
    """Processes that torchrun starts; a job profile with GPUs replaces it by one process for each GPU. A run
    can resume with any number, so it is not part of the run ID."""
    engine: Literal["deepspeed", "torch"] = "deepspeed"
    """`deepspeed` (ZeRO) or plain PyTorch, which shards everything over several processes (FSDP2)."""
    zero_stage: Literal[1, 2, 3] = 2
    """ZeRO stage of the deepspeed engine: 1 shards the optimizer state, 2 also gradients, 3 also weights. A
    run can resume in any stage, so it is not part of the run ID."""
    offload_optimizer: bool = False
    """True to keep the optimizer state and the float32 weights of the deepspeed engine in host memory, and to
    update the weights there: slower, with less memory of a GPU. A run can resume with either, so it is not
    part of the run ID."""
    precision: Literal["bf16", "fp32"] = "fp32"
    """Precision of the model in training and evaluation. With `bf16`, master weights and the loss are
    float32, and the model is saved in bfloat16."""
    activation_checkpointing: tuple[Literal["vision_tower", "audio_tower", "language"], ...] = ()
    """Parts whose activations are recomputed in the backward pass, which takes time and saves memory."""
    checkpoint_interval: int = Field(default=100, ge=1, le=MOST_STEPS)
    """Steps between checkpoints; the last step always has one."""
    keep_latest_checkpoints: int = Field(default=2, ge=1, le=MOST_STEPS)
    """Number of a run's latest checkpoints that are kept."""
    validation_interval: int | None = Field(default=None, ge=1, le=MOST_STEPS)
    """Steps between measurements of the loss on held-out samples, and at the last step; null: none."""
    validation_samples: int | None = Field(default=256, ge=1, le=MOST_STEPS)
    """Maximum number of held-out samples of each dataset in a measurement; null: all."""
    result_checkpoint: Literal["last", "best"] = "last"
    """Checkpoint that is the run's result: the last one, or the one with the lowest held-out loss among the
    checkpoints whose step has a measurement."""
    early_stopping_patience: int | None = Field(default=None, ge=1, le=MOST_STEPS)
    """Measurements in a row without a new lowest held-out loss after which training stops; null: never."""

    @model_validator(mode="before")
    @classmethod
    def _steps_or_epochs(cls, content: Any) -> Any:
        if not isinstance(content, Mapping):
            return content
        if content.get("epochs") is None:
            # A misspelt field is named instead.
            if content.get("steps") is None and set(content) <= set(cls.model_fields):
                raise ValueError("it has neither steps nor epochs: set one")
            return content
        if content.get("steps") is not None:
            raise ValueError(
                f"it has steps={content['steps']} and epochs={content['epochs']}: set one to null"
            )
        # A placeholder until a run is opened, which is never written.
        return {**content, "steps": 1}

    @model_serializer(mode="wrap")
    def _without_steps_of_epochs(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = handler(self)
        return found if self.epochs is None else {**found, "steps": None}

    @model_validator(mode="after")
    def _warmup_steps_have_kinds(self) -> Self:
        if self.warmup_kind_steps and not self.warmup_kinds:
            raise ValueError(f"warmup_kind_steps={self.warmup_kind_steps} needs warmup_kinds")
        return self

    @model_validator(mode="after")
    def _held_out_loss_is_measured(self) -> Self:
        for name, unused in (("result_checkpoint", "last"), ("early_stopping_patience", None)):
            if self.validation_interval is None and getattr(self, name) != unused:
                raise ValueError(
                    f"{name}={getattr(self, name)} needs validation_interval, which is null: set it"
                )
        pair = sorted((self.checkpoint_interval, self.validation_interval or 1))
        if self.result_checkpoint == "best" and pair[1] % pair[0]:
            raise ValueError(
                f"result_checkpoint=best needs checkpoint_interval={self.checkpoint_interval} and "
                f"validation_interval={self.validation_interval} of which one divides the other: change one"
            )
        return self

    @model_validator(mode="after")
    def _every_process_has_a_sample(self) -> Self:
        if self.global_batch_size < self.num_processes:
            raise ValueError(
                f"global_batch_size={self.global_batch_size} is less than num_processes="
                f"{self.num_processes}, so some processes would have no sample: raise one or lower the other"
            )
        return self

    @model_validator(mode="after")
    def _rows_fit_micro_batches(self) -> Self:
        if self.micro_batch_tokens is not None and self.micro_batch_tokens < (self.pack_length or 0):
            raise ValueError(
                f"micro_batch_tokens={self.micro_batch_tokens} is less than one row of "
                f"pack_length={self.pack_length}: raise it"
            )
        return self

    @model_validator(mode="after")
    def _engine_offloads(self) -> Self:
        if self.offload_optimizer and self.engine != "deepspeed":
            raise ValueError(
                f"offload_optimizer=true needs engine=deepspeed, not {self.engine}: change one of them"
            )
        return self

    @model_validator(mode="after")
    def _sums_are_float32(self) -> Self:
        adds_in_bf16 = (self.engine, self.zero_stage, self.precision) == ("deepspeed", 1, "bf16")
        if self.micro_batch_tokens is not None and adds_in_bf16:
            raise ValueError(
                "ZeRO stage 1 adds up gradients of micro-batches in bfloat16: use zero_stage 2 or 3 with "
                "precision=bf16 and micro_batch_tokens"
            )
        return self
