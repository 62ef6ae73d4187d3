"""The memory that a server takes, its decoding processes counted in. The fault tests measure with it, too."""

from __future__ import annotations

import psutil


def resident(pid: int) -> int:
    """Bytes that a process and all below it hold; what ends meanwhile counts no more."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for one in family:
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total
