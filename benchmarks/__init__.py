"""Every speed claim, as a script: `python -m benchmarks.bench_dev_loop`.

A script measures, prints what it measured beside its bar, and exits with 1 where the bar was missed. Its `quick` does
the same with sizes so small that the tests can run it, and returns what was wrong. It holds no bar on a time, because
tests run beside each other; what a method says where the truth is known, it does hold.
"""
