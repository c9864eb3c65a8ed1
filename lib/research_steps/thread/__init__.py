"""The steps of a thread: their builders, what each measures and says, and the binding to Marin.

Only `builders` and what it rests on (`runs`, `tagging`, `marin`) load Marin; a trial is measured without it.
"""
