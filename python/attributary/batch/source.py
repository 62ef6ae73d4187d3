"""Where a run's engine comes from, told so that another process can open it, or the stage before it, for itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from attributary.client.channel import Tls
from attributary.errors import InvalidArgumentError, UnavailableError

from .scoring import BatchPreparer, EngineScorer, Scorer, engine_limits
from .settings import Settings


@dataclass(frozen=True, slots=True)
class ScorerSource:
    """A picklable description of a scorer; `bundle` must be seen under the same path on every machine.

    The engine is `settings.engine`: "embedded" (a bundle), "triton" (a bundle and an address), "gateway" (an address).
    """

    settings: Settings
    bundle: Path | None = None
    address: str = ""
    token: str | None = None
    tls: Tls | None = None

    def open(self, verify: bool = True) -> Scorer:
        """Open the scorer. `verify` False skips the hashes of a bundle that this machine has just verified."""
        if self.settings.engine == "gateway":
            from .remote import GatewayScorer

            return GatewayScorer(self.address, self.settings, token=self.token, tls=self.tls)
        if self.settings.engine == "triton":
            try:
                from .remote import TritonScorer

                return TritonScorer(self._bundle(), self.address, self.settings)
            except ImportError as error:
                raise UnavailableError(f"{error}; install attributary[triton]") from None
        from attributary.attribution.open import open_engine

        limits = engine_limits(self.settings)
        engine = open_engine(self._bundle(), limits=limits, precision=self.settings.precision, verify=verify)
        return EngineScorer(engine, self.settings)

    def open_stage(self) -> BatchPreparer | Scorer:
        """Open what the decoding stage needs: no encoder, no index."""
        if self.settings.engine == "gateway":
            return self.open()
        from attributary.attribution.open import open_preparer

        limits = engine_limits(self.settings)
        return BatchPreparer(open_preparer(self._bundle(), limits=limits, verify=False), self.settings)

    def _bundle(self) -> Path:
        if self.bundle is None:
            raise InvalidArgumentError("bundle", "name a bundle directory, or an --endpoint that serves one")
        return self.bundle
