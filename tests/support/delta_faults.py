"""Run `attributary bundle ...` again and again, each time in a process of its own that dies at a chosen point.

Reads JSON lines {"argv", "out", "point", "fsize", "uid"} and answers each with {"status", "points"}: the exit status of
the command, negative for a signal, and how many points it passed. A point is a call that changes the disk. At number
`point` the process kills itself: before the call, or, in a write, after half of it. The interpreter and its imports are
paid for once: every command is a fork.
"""

import json
import os
import resource
import signal
import sys

from attributary.cli import bundle, lifecycle  # noqa: F401 -- so that the forks find them loaded
from attributary.cli import main as command_line
from attributary.delta import directory
from attributary.errors import AttributaryError

CALLS = (
    *("write", "fsync", "fdatasync", "ftruncate", "truncate", "pwrite"),
    *("rename", "replace", "unlink", "rmdir", "mkdir", "link"),
)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Points:
    """Counts calls that change the disk, and ends the process at one of them."""

    def __init__(self, last):
        self.passed = 0
        self.last = last

    def around(self, name, call):
        def counted(*given, **named):
            self.passed += 1
            if self.passed == self.last:
                if name == "write":
                    call(given[0], bytes(given[1])[: len(given[1]) // 2])
                die()
            return call(*given, **named)

        return counted


def run(asked, answer):
    """The command, in the child."""
    out = os.open(asked["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(out, 1)
    os.dup2(out, 2)
    if asked.get("fsize"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (asked["fsize"], asked["fsize"]))
    if asked.get("uid"):
        os.setgid(asked["uid"])
        os.setuid(asked["uid"])
    points = Points(asked.get("point"))
    for name in CALLS:
        setattr(os, name, points.around(name, getattr(os, name)))
    directory._exchange = points.around("exchange", directory._exchange)
    status = 0
    try:
        command_line.cli(asked["argv"], standalone_mode=False)
    except SystemExit as ended:
        status = ended.code
    except AttributaryError as error:
        print(f"attributary: {error}", flush=True)
        status = 2
    sys.stdout.flush()
    with os.fdopen(answer, "w") as pipe:
        pipe.write(str(points.passed))
    os._exit(status)


def main():
    for line in sys.stdin:
        asked = json.loads(line)
        told, answer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(told)
            try:
                run(asked, answer)
            finally:
                os._exit(99)
        os.close(answer)
        with os.fdopen(told) as pipe:
            passed = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"status": status, "points": int(passed or 0)}), flush=True)


if __name__ == "__main__":
    main()
