"""Experiment records: results expected before a run and results observed after it.

`records` defines a record, a Markdown file with YAML front matter, and parses it; `template` has the text of
a new one. `authoring` creates, refreshes and closes records, `locked_files` locks their folder, and
`completeness` lists what a record lacks. `changes` computes the differences from the parent experiment.
`outcomes` writes the results of runs into a record, and `overview` shows all records as a tree and searches
them.
"""
