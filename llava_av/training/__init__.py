"""Training of one run by the processes that torchrun starts.

`__main__` is the entry of each process, and `job` leads it from the request in S3 to train.json, through the
stages of the recipe. `stage_progress` decides which of them to train and `stages` from which model, and
`stage_training` trains one, or the whole run if its recipe has no stages. `job_context` opens the run, reads
the datasets and makes the model, with `fresh_start` if the processes of a node share a fresh one, and
`job_media` streams the media; `bad_samples` leaves out samples that the model cannot take or that fail to
decode, and `sample_sizes` holds the sizes of the others. `order` gives the samples of each step.
`micro_batches` shares them among the processes by the costs that `sample_costs` estimates, in rows that
`row_filling` fills, and `loader` collates them one step ahead, from clips in the `encoded_cache` that the
processes of the `decode_pool` decode some steps ahead. `streamed_decoding` gives them the files that the
stream has fetched. `mix` computes the weights and the observed shares of several datasets.

`loop` goes through the steps and saves checkpoints. `trainer` takes one step: forward and backward passes
of its micro-batches, loss over the labelled tokens of all processes, metrics that `step_totals` sums.
`step_records` reads and records these metrics while the next step runs. `engines` run the backward pass and
update the weights, with the optimizer of `optimizer` and the learning rate of `schedule`. `checkpointer`
saves this state and that of `random_state`: `host_copy` copies it to host memory, `sharded_state` divides
it into files, and `model_folder` writes the model, or its adapter, for transformers and peft at the end of
a run. `restoring` loads a checkpoint, also of another sharding, `rebuilding` builds a model from it, and
`safe_loading` turns errors of damaged files into one line. `recording` keeps the journal, MLflow and
Prometheus up to date, and warns of the steps that `loss_spikes` detects.

`throughput` measures each step with the FLOPs of `model_flops` and the peaks of `gpu_peaks`, `console` shows
progress, and `profiling` writes a trace and a table of some steps.

`validation` measures the loss on held-out samples, which changes nothing in the training. `selection` chooses
the best checkpoint by it, and decides when training stops early.

`collective` sums values over all processes. `host_memory` sets up the allocator of a process that trains on
the CPU. `finite_checks` stops all processes in the same step if a value is not finite. If a process gets
SIGTERM, all of them save a checkpoint after the same step and end. `phases` reports the phase of a process to
the heartbeat, so that an error names a process that hangs.
"""
