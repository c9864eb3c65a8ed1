"""One case of the hillclimb from the command line, as a script has it that knows nothing of threads:

    python -m experiments.moe_hc.bench --implementation dense --tokens 256 --samples 5

It prints a line 'METRIC name=value' for each metric of each sample, and ends with an error where an output is wrong.
"""

import argparse
from itertools import islice

import draccus

from experiments.moe_hc.measure import MoeConfig, measure


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--samples", type=int, default=5)
    own, rest = parser.parse_known_args()
    for metrics in islice(measure(draccus.parse(MoeConfig, args=rest)), own.samples):
        for name, value in metrics.items():
            print(f"METRIC {name}={value}")


if __name__ == "__main__":
    main()
