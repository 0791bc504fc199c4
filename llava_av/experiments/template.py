"""Text of a new record."""

from llava_av.experiments.records import OBSERVED_BEGIN, OBSERVED_END, OBSERVED_HEADING

TEMPLATE_WORDS = {
    "hypothesis": "What is believed, so that a run can show it to be wrong.",
    "rationale": "Why it is believed, and why it is worth a run.",
    "next_steps": "- What follows if it holds.\n- What follows if it does not.",
    "lessons": "Nothing yet.",
}
"""Text of the template by section; a section with this text is not yet written."""
TEMPLATE = f"""\
---
id: {{id}}
title: {{title}}
parent: {{parent}}
created: {{created}}
# What its runs train: a recipe by name or file, and demo, NAME or NAME@COMMIT of a dataset.
recipe: {{recipe}}
dataset: {{dataset}}
# At least one, each a number of evaluation.json with at_least, at_most, above or below (a number, or chance):
#   {{{{metric: accuracy.av.joint, at_least: 0.9}}}}
#   {{{{metric: accuracy.av.joint.low, over: parent, above: 0}}}}   (over parent or champion: the difference)
expected:{{expected}}
---

# {{heading}}

## Hypothesis

{{hypothesis}}

## Rationale

{{rationale}}

## Changes

## Next steps

{{next_steps}}

## Lessons

Nothing yet.

## {OBSERVED_HEADING}

{OBSERVED_BEGIN}
{OBSERVED_END}
"""
