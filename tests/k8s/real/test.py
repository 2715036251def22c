"""The chart on a real Kubernetes: what operators and machines do to it, and whether clients notice.

Promise: every step asserts what it says, and says what it saw; the first one that fails ends the test with exit code 1, after the state of the cluster was shown.
Load is `fulcrum bench` of this machine, outside of the cluster: where a step says "no request failed", its count of failures is 0.

Steps run in their order and build on each other; --only takes some, on the release that the last call has left. Machines are healed at the start and the end.
"""

import argparse
import subprocess
import sys
import time

import helm_python as helm

import plain  # noqa: F401 (brings its steps, in their order)
import encrypted  # noqa: F401 (the same)
from ground import STEPS, Failed, Test, kubectl


def main():
    parser = argparse.ArgumentParser()
    for name in ("root", "fulcrum", "image", "prometheus"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--values")
    parser.add_argument("--only", default=",".join(STEPS))
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    unknown = [name for name in chosen if name not in STEPS]
    if unknown:
        print(f"steps: {', '.join(STEPS)}", file=sys.stderr)
        return 2
    test = Test(arguments.root, arguments.fulcrum, arguments.image, arguments.prometheus, arguments.values)
    for name in chosen:
        began = time.monotonic()
        try:
            test.healed()
            said = STEPS[name](test)
        except (Failed, helm.HelmError, subprocess.TimeoutExpired) as error:
            print(f"FAILED  {name}: {error}", flush=True)
            print(kubectl("get", "pods", "-o", "wide"))
            print(kubectl("get", "events", "--sort-by=.lastTimestamp")[-3000:])
            test.healed()
            return 1
        print(f"ok      {name} ({time.monotonic() - began:.0f} s): {said}", flush=True)
    test.healed()
    return 0


if __name__ == "__main__":
    sys.exit(main())
