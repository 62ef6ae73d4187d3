"""Another bundle for a running Triton, without a failed request."""

from __future__ import annotations

from pathlib import Path

from attributary.errors import AttributaryError

from .control import Control
from .materialize import Settings, materialize, remove
from .names import ALIASES


def swap(
    address: str,
    bundle: Path,
    repository: Path,
    settings: Settings | None = None,
    *,
    retire_after_s: float | None = 30.0,
) -> str:
    """Load a bundle beside the old one, point the aliases to it, unload the old one; return the new bundle's id.

    `address` is host:port of Triton's gRPC service, `repository` the one that it runs on. Older bundles are unloaded
    after `retire_after_s`, in which gateways move on, or kept if it is None. If the new one cannot be loaded, aliases
    and repository are put back as they were, and BundleError gives Triton's reason.
    """
    control = Control(address)
    try:
        before = control.loaded()
        paths = [repository / alias / "config.pbtxt" for alias in ALIASES]
        aliases = {path: path.read_bytes() for path in paths if path.is_file()}
        bundle_id = materialize(bundle, repository, settings)
        try:
            control.load(bundle_id)
        except AttributaryError:
            for path, text in aliases.items():
                path.write_bytes(text)
            if before.served not in (None, bundle_id):
                control.forget(bundle_id)
                remove(repository, bundle_id)
            raise
        if retire_after_s is not None:
            for old in sorted(before.bundles - {bundle_id}):
                control.retire(old, retire_after_s)
                remove(repository, old)
        return bundle_id
    finally:
        control.close()
