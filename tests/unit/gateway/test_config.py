import asyncio
import threading
from pathlib import Path

import click
import pytest

from attributary.cli.serve import serve_command
from attributary.errors import InvalidArgumentError
from attributary.gateway.config import GatewayConfig


def test_pictures_are_decoded_by_a_thread_a_core(monkeypatch, engine):
    from attributary.gateway import pipeline as module

    monkeypatch.setattr(module, "cores", lambda: 5)

    async def threads(**settings):
        config = GatewayConfig(**settings)
        made = module.Pipeline(engine, config, None, module.Costly(config))
        names = [thread.name for thread in threading.enumerate() if thread.name.startswith("prepare-")]
        await made.close()
        return len(names)

    before = sum(thread.name.startswith("prepare-") for thread in threading.enumerate())
    # One more than a caller may have at work, for others.
    assert asyncio.run(threads()) - before == 6
    assert asyncio.run(threads(prepare_threads=3)) - before == 4


def test_every_flag_is_also_an_environment_variable(settings_of):
    given = {
        "ATTRIBUTARY_PORT": "1",
        "ATTRIBUTARY_MAX_DELAY_MS": "2.5",
        "ATTRIBUTARY_REFLECTION": "false",
        "ATTRIBUTARY_TOKENS_FILE": "/tokens",
        "ATTRIBUTARY_LOG_FORMAT": "console",
    }
    config = settings_of(given)
    assert (config.port, config.max_delay_ms, config.reflection) == (1, 2.5, False)
    assert (config.tokens_file, config.log_format) == (Path("/tokens"), "console")
    assert settings_of(given, "--port", "2").port == 2
    assert settings_of({}) == GatewayConfig()


def test_options_of_serve_tell_name_type_and_help():
    options = {option.name: option for option in serve_command.params}
    assert set(GatewayConfig.__dataclass_fields__) <= set(options)
    assert options["port"].type is click.INT
    assert isinstance(options["tls_cert"].type, click.Path)
    assert options["max_batch"].envvar == "ATTRIBUTARY_MAX_BATCH"
    assert all(options[name].help for name in GatewayConfig.__dataclass_fields__)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"ATTRIBUTARY_PORT": "70000"}, "port"),
        ({"ATTRIBUTARY_MAX_BATCH": "0"}, "max_batch"),
        ({"ATTRIBUTARY_PERMITS": "-1"}, "permits"),
        ({"ATTRIBUTARY_DRAIN_S": "nan"}, "drain_s"),
        ({"ATTRIBUTARY_MAX_MESSAGE_BYTES": str(2**32)}, "max_message_bytes"),
        ({"ATTRIBUTARY_MAX_CONNECTION_AGE_S": "inf"}, "max_connection_age_s"),
        ({"ATTRIBUTARY_LOG_LEVEL": "loud"}, "log_level"),
        ({"ATTRIBUTARY_EVENT_LOOP": "none"}, "event_loop"),
        ({"ATTRIBUTARY_TLS_CERT": "a"}, "tls_cert"),
        ({"ATTRIBUTARY_TLS_CLIENT_CA": "a"}, "tls_client_ca"),
    ],
)
def test_wrong_settings_name_the_setting(settings_of, given, field):
    with pytest.raises(InvalidArgumentError) as caught:
        settings_of(given)
    assert caught.value.field == field


@pytest.mark.parametrize("given", [{"ATTRIBUTARY_PORT": "x"}, {"ATTRIBUTARY_REFLECTION": "perhaps"}])
def test_a_variable_of_another_type_is_named(settings_of, given):
    with pytest.raises(click.BadParameter) as caught:
        settings_of(given)
    assert [caught.value.param.envvar] == [*given]
