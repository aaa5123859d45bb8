"""Junk for the public functions, far more of it than the tests have time for: only documented exceptions come out?

Run with ``python -m benchmarks.hostile_inputs --output results/hostile_inputs.json`` (some five minutes on two CPU
cores). It runs ``tests/test_hostile.py`` with more examples, counts what hypothesis tried, and fails if a test does.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.killed_study import publish

ROOT = Path(__file__).parent.parent
TESTS = "tests/test_hostile.py"


def run(examples: int) -> dict[str, Any]:
    """Run the tests with so many examples each.

    Returns:
        ``examples``: tried in all; ``by_test``: of each; ``failed``: names of tests that failed; ``passed``.
    """
    command = [sys.executable, "-m", "pytest", TESTS, "-v", "--hypothesis-show-statistics", "-p", "no:cacheprovider"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"PRILORA_HOSTILE_EXAMPLES": str(examples)}, stdout=subprocess.PIPE,
        text=True, encoding="utf-8",
    )  # fmt: skip
    by_test: dict[str, int] = {}
    failed, test = set(), ""
    with tqdm(desc="tests", unit=" tests") as bar:
        for line in process.stdout:
            if found := re.match(rf"{TESTS}::(\w+) (PASSED|FAILED)", line):
                bar.update()
                if found[2] == "FAILED":
                    failed.add(found[1])
            elif found := re.match(rf"{TESTS}::(\w+):$", line):
                test = found[1]
            elif found := re.search(r"(\d+) passing(?: examples)?, (\d+) failing", line):
                by_test[test] = by_test.get(test, 0) + int(found[1]) + int(found[2])
    return {
        "examples": sum(by_test.values()),
        "by_test": by_test,
        "failed": sorted(failed),
        "passed": process.wait() == 0,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--examples", type=int, default=400, help="of each test (default: 400, some 12,000 in all)")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    result = run(options.examples)
    command = ["python", "-m", "benchmarks.hostile_inputs", "--examples", str(options.examples)]
    publish({"command": command, **result}, options.output)
    sys.exit(0 if result["passed"] else 1)
