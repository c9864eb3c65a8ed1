"""Ray clusters: a thread whose driver and steps run there.

`config` reads which cluster a file below infra/ means, and imports Ray. `jobs` submits a driver and follows it;
`client` connects it, and is its client of Fray, `task` what a worker does. `worktree` is what travels. This package is
the only importer of Ray; to import `client` imports it, and nothing else does.
"""
