import dataclasses
import json

import pytest
import structlog

from attributary.gateway import logs


@pytest.fixture
def configured(config):
    yield lambda **settings: logs.configure(dataclasses.replace(config, **settings))
    structlog.reset_defaults()


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_tracebacks_hold_no_local_variables(configured, capsys, log_format):
    configured(log_format=log_format)
    try:
        prompt = "a secret " + "prompt"
        raise ValueError(len(prompt))
    except ValueError as error:
        structlog.get_logger().error("defect", reference="abc", exc_info=error)
    text = capsys.readouterr().err
    assert "ValueError" in text
    assert "abc" in text
    assert "a secret prompt" not in text


def test_json_is_one_object_a_line_from_the_level_up(configured, capsys):
    configured(log_format="json", log_level="warning")
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud", method="Attribute")
    lines = capsys.readouterr().err.splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["loud"]
    assert json.loads(lines[0])["method"] == "Attribute"
