"""Another bundle for a running Triton, without a failed request: load it, change the aliases, unload the old one."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from attributary.errors import AttributaryError, BundleError, UnavailableError

from .materialize import Settings, materialize, remove
from .templates import ALIASES, model_name, parse

_LOAD_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a server has: ids of all bundles whose models are ready, and of the one that its aliases lead to."""

    bundles: frozenset[str]
    served: str | None


class Control:
    """A connection for model control. `address` is host:port of Triton's gRPC service."""

    def __init__(self, address: str) -> None:
        self._client = triton.InferenceServerClient(address)

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def loaded(self) -> Loaded:
        """Say what the server has; raises UnavailableError."""
        try:
            listed = self._client.get_model_repository_index(as_json=True).get("models", [])
            ready = {model["name"] for model in listed if model.get("state") == "READY"}
            served = self._bundle_of_alias() if "attribution" in ready else None
        except InferenceServerException as error:
            raise UnavailableError(f"Triton does not answer: {error.message()}") from None
        own = [found for name in ready if (found := parse(name)) is not None]
        whole = {bundle for _, bundle in own if all((part, bundle) in own for part in ALIASES)}
        return Loaded(frozenset(whole), served)

    def load(self, bundle_id: str) -> None:
        """Load a bundle's models, then point the aliases to it. Requests go on all the while.

        If a model cannot be loaded, the aliases stay as they are and BundleError gives Triton's reason. The
        repository must hold the models and aliases that lead to them (`materialize`).
        """
        # An alias may change only when both models are there.
        for part in ("encoder", "index", "attribution"):
            self._call("load_model", model_name(part, bundle_id))
        for alias in ALIASES:
            self._call("load_model", alias)
        served = self._bundle_of_alias()
        if served != bundle_id:
            raise BundleError(
                "attribution/config.pbtxt", f"leads to bundle {served}; materialize {bundle_id} again"
            )

    def retire(self, bundle_id: str, after_s: float = 0.0) -> None:
        """Unload a bundle's models after a grace in which gateways move on. Requests inside are finished first."""
        time.sleep(after_s)
        for part in ALIASES:
            self._call("unload_model", model_name(part, bundle_id))

    def forget(self, bundle_id: str) -> None:
        """Unload what a failed load has left of a bundle; whatever cannot be unloaded stays."""
        for part in ALIASES:
            with contextlib.suppress(BundleError, UnavailableError):
                self._call("unload_model", model_name(part, bundle_id))

    def _bundle_of_alias(self) -> str | None:
        config: Any = self._client.get_model_config("attribution", as_json=True)["config"]
        value = config.get("parameters", {}).get("bundle_id", {}).get("string_value")
        return str(value) if value else None

    def _call(self, method: str, name: str) -> None:
        try:
            getattr(self._client, method)(name, client_timeout=_LOAD_TIMEOUT_S)
        except InferenceServerException as error:
            if error.status() == "StatusCode.UNAVAILABLE":
                raise UnavailableError(f"Triton does not answer: {error.message()}") from None
            raise BundleError(name, f"Triton says: {error.message()}") from None


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
