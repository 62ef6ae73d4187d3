"""Telling a running Triton which bundle to serve: load the new one beside the old, turn the doors, retire the old."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from attributary.errors import BundleError, UnavailableError

from .names import DOORS, model_name, parse

_LOAD_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a server has: ids of all bundles whose models are ready, and of the one that its doors lead to."""

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
            served = self._bundle_of_door() if "attribution" in ready else None
        except InferenceServerException as error:
            raise UnavailableError(f"Triton does not answer: {error.message()}") from None
        own = [found for name in ready if (found := parse(name)) is not None]
        whole = {bundle for _, bundle in own if all((part, bundle) in own for part in DOORS)}
        return Loaded(frozenset(whole), served)

    def load(self, bundle_id: str) -> None:
        """Load a bundle's models, then turn the doors to it. Requests go on all the while.

        If a model cannot be loaded, the doors stay where they are and BundleError gives Triton's reason. The
        repository must hold the models and its doors lead to them (`materialize`).
        """
        # The new models first and by themselves: only when both are there may a door turn.
        for part in ("encoder", "index", "attribution"):
            self._ask("load_model", model_name(part, bundle_id))
        for door in DOORS:
            self._ask("load_model", door)
        served = self._bundle_of_door()
        if served != bundle_id:
            raise BundleError(
                "attribution/config.pbtxt", f"leads to bundle {served}; materialize {bundle_id} again"
            )

    def retire(self, bundle_id: str, after_s: float = 0.0) -> None:
        """Unload a bundle's models after a grace in which gateways move on. Requests inside are finished first."""
        time.sleep(after_s)
        for part in DOORS:
            self._ask("unload_model", model_name(part, bundle_id))

    def forget(self, bundle_id: str) -> None:
        """Unload what a failed load has left of a bundle; whatever cannot be unloaded stays."""
        for part in DOORS:
            with contextlib.suppress(BundleError, UnavailableError):
                self._ask("unload_model", model_name(part, bundle_id))

    def _bundle_of_door(self) -> str | None:
        config: Any = self._client.get_model_config("attribution", as_json=True)["config"]
        value = config.get("parameters", {}).get("bundle_id", {}).get("string_value")
        return str(value) if value else None

    def _ask(self, method: str, name: str) -> None:
        try:
            getattr(self._client, method)(name, client_timeout=_LOAD_TIMEOUT_S)
        except InferenceServerException as error:
            if error.status() == "StatusCode.UNAVAILABLE":
                raise UnavailableError(f"Triton does not answer: {error.message()}") from None
            raise BundleError(name, f"Triton says: {error.message()}") from None
