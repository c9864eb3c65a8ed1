"""Reproduction: what a tag sealed is measured again, from the tag alone, and held against what was sealed.

`rerun` runs the sealed commands in a work tree, an environment and a store of their own; `judging` compares, by what
`prediction` expects; `reporting` records what came of it in the series.
"""
