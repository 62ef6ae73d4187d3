"""What the unit tests share beside tests/conftest.py."""

import pytest

from attributary.attribution.open import open_engine
from attributary.cli.serve import serve_command
from attributary.gateway.config import GatewayConfig


@pytest.fixture(scope="session")
def tiny_engine(tiny_bundle_dir):
    """An engine on the tiny bundle, in this process."""
    return open_engine(tiny_bundle_dir)


@pytest.fixture
def settings_of(monkeypatch):
    """A function: `attributary serve`'s settings under environment variables and options of the command line."""

    def read(environment, *options):
        with monkeypatch.context() as patched:
            for name, value in environment.items():
                patched.setenv(name, value)
            given = serve_command.make_context("serve", ["bundle", *options]).params
        return GatewayConfig(**{name: given[name] for name in GatewayConfig.__dataclass_fields__})

    return read
