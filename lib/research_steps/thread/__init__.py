"""The steps of a thread: their builders, what each measures and says, and the binding to Marin.

`types` is what a thread is written with, `run` what runs it. Only `driver` and what it rests on (`builders`,
`step_body`, `marin`) load Marin; a trial is measured without it.
"""
