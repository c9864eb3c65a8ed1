"""Ray clusters: which one a configuration below infra/ means, and a TPU of it that is held for one person's work.

`config` reads the configuration and connects; `tpu` is what a person's machine does, `node` what the held node does, and
`worktree` what travels between them. This package is the only importer of Ray, and only inside functions.
"""
