"""Steps of the pipeline and commands that need several packages, one file each.

The chain reads in this order: `commit_data` (with `folder_content`) or `commit_demo` commits a dataset and
`open_run` opens a run on it; `train`, `register`, `evaluate`, `promote` and `report` work on it, and
`cleanup` ends a pipeline run on a cluster.
Each step is a function that the command line and the pipeline both call; it is idempotent and finds what it
has done before. `evaluated_run` has everything that the steps after an evaluation read, `baseline_runs` and
`compare` the models that a run is compared with, and `run_outcomes` the observed and expected values.

`commit_records` writes what accompanies a commit, `dataset_status` previews one, `dataset_tokens` counts its
tokens, `pending_media` warns of files that were not decoded, `view_dataset` writes a page with its samples,
`derive_commits` merges and filters commits, and `collect_garbage` deletes what no commit needs. `ingest/`
commits a source with a job of several processes. In addition, `find_model`, `evaluate_task` and
`compare_models` evaluate any model on a task; `export_model` writes one as a folder and `pull_model` copies
its files; `version_history`, `model_card` and `reproduce` answer questions about a registered version;
`stored_runs` and `indexed_run` read all runs of a bucket, and `index` writes the page over them.
`create_project` writes the files of a new project. `estimate/` computes the size of a recipe before it is
trained. `runtime/` has what they share: the workspace, job targets, retries, the actor and failures.

Nothing is imported here: each step needs a few heavy packages of its own.
"""

__all__: list[str] = []
