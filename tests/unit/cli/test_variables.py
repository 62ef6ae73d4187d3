"""Settings from the environment: a misspelt one is refused, others' are left alone."""

import pytest

from attributary.cli.serve import refuse_misspelt, serve_command
from attributary.errors import InvalidArgumentError


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("ATTRIBUTARY_TOKEN_FILE", "ATTRIBUTARY_TOKENS_FILE"),
        ("ATTRIBUTARY_MAX_BACH", "ATTRIBUTARY_MAX_BATCH"),
        ("ATTRIBUTARY_TLS_CLIENTCA", "ATTRIBUTARY_TLS_CLIENT_CA"),
        ("ATTRIBUTARY_SERVE_MAX_BACH", "ATTRIBUTARY_SERVE_MAX_BATCH"),
        ("ATTRIBUTARY_ADMIN_TOKEN_FILE", "ATTRIBUTARY_ADMIN_TOKENS_FILE"),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_name_that_was_meant(given, meant):
    with pytest.raises(InvalidArgumentError, match=f"there is {meant}$") as caught:
        refuse_misspelt(serve_command, {"PATH": "/bin", given: "x"})
    assert caught.value.field == given


def test_every_setting_is_taken_and_others_are_left_alone():
    own = [entry.envvar for entry in serve_command.params if isinstance(entry.envvar, str)]
    others = [
        "ATTRIBUTARY_ADMIN_TOKEN", "ATTRIBUTARY_TOKEN", "ATTRIBUTARY_KERNELS", "ATTRIBUTARY_QUERY_TOP_K",
        "ATTRIBUTARY_SERVE_PORT", "ATTRIBUTARY_GATEWAY_SERVICE_HOST", "ATTRIBUTARY_GATEWAY_PORT_50051_TCP_ADDR",
        "ATTRIBUTARY_GATEWAY_METRICS_SERVICE_PORT", "ATTRIBUTARY_TRITON_PORT_8001_TCP",
    ]  # fmt: skip
    assert len(own) > 30
    refuse_misspelt(serve_command, dict.fromkeys([*own, *others], "x"))
