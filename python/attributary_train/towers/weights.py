"""Which weights a module has."""

from __future__ import annotations

import hashlib

import torch


def weights_digest(module: torch.nn.Module) -> str:
    """SHA-256 over names and bytes of a module's weights, hexadecimal."""
    total = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        total.update(name.encode())
        total.update(value.detach().contiguous().cpu().float().numpy().tobytes())
    return total.hexdigest()
