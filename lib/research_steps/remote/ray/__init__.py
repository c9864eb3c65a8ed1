"""Ray clusters: a thread whose driver and steps run there, and a TPU that is held for one person's work.

`config` reads which cluster a file below infra/ means, and imports Ray. `jobs` submits a driver and follows it;
`client` connects it, and is its client of Fray, `task` what a worker does. `tpu` is what a person's machine does about a
held TPU, `node` what the held node does, `execution` one command there. `worktree` is what travels. This package is the
only importer of Ray; to import `client`, `tpu` or `execution` imports it, and nothing else does.
"""
