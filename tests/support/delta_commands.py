"""`attributary bundle` in processes that can be made to die at a point."""

import json
import os
import subprocess
import sys
from pathlib import Path

FAULTS = Path(__file__).with_name("delta_faults.py")


class Commands:
    """`bundle` commands in processes that can be made to die."""

    def __init__(self, home):
        self.out = home / "out"
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(FAULTS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def __call__(self, bundle, verb, *rest, out=None, **asked):
        """Return (exit status, points passed, what was printed)."""
        out = out or self.out
        asked |= {"argv": ["bundle", verb, str(bundle), *map(str, rest)], "out": str(out)}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        told = json.loads(self._process.stdout.readline())
        return told["status"], told["points"], out.read_text()

    def close(self):
        self._process.stdin.close()
        self._process.wait()
