"""Page with samples of a dataset: media to play, questions and answers, and what was left out.

`inputs` has what the page shows and its limits, `cards` prepares the samples and their media, and `page`
renders them. The script `view.js` filters the samples.
"""
