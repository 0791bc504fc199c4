"""Report of one run as a self-contained HTML page and `summary.json`.

`inputs` holds the objects of the run that both show. `page` renders the page: `view` has the content of its
header and tables, `cost` the time, processes and tokens of each job, `plots` the training curves,
`accuracy_plots` the accuracy bars, `forest` the differences with their intervals, and `confusion` the
confusion matrices. `clips` chooses the clips that are embedded. `summary_json` builds `summary.json`.
"""
