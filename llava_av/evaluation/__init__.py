"""Evaluation of a checkpoint under every ablation, with confidence intervals.

`runner.py` is the job. `job_request.py` reads its request, and `process_group.py` joins the processes that
share the questions. `question_batches.py` orders the questions and decodes their clips, `shuffling.py`
exchanges the audio of clips, and `ablations.py` removes modalities. `answering.py` generates replies,
`reply_parsing.py` finds the answer in a reply, and `scoring.py` scores it. `partial_answers.py` stores
answers until all exist. `aggregation.py` aggregates them with the intervals of `statistics.py`, and
`comparison.py` compares two models. `tasks/` has the benchmarks.
"""
