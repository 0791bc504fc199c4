"""An experiment record and outcomes of its runs."""

import datetime

from llava_av.experiments.records import OBSERVED_BEGIN, OBSERVED_END

DAY = datetime.date(2026, 11, 22)
RECORD = f"""\
---
id: tones
title: 'Tones: high and low'
parent: dryrun
created: 2026-11-02
expected:
- {{metric: accuracy.av.joint, at_least: 0.9}}
- {{metric: accuracy.video_only.joint.low, at_most: chance}}
---

# Tones

## Hypothesis

It hears.

```
## not a heading
```

## Rationale

It has ears.

## Next steps

- More tones.

## Lessons

## Observed

Rows below.

{OBSERVED_BEGIN}
{OBSERVED_END}

After them.
"""
