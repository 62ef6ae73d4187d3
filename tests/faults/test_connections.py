"""Connections are bounded in number, in calls and in age, whatever is going on on them."""

import pytest

from attributary.errors import InvalidArgumentError
from attributary.gateway import transport


def unfinished(rude, server, *streams):
    """A connection with calls whose messages never come to an end."""
    peer = rude.Rude(server.address)
    for stream in streams:
        peer.begin(stream)
        peer.send(stream, rude.message(b"x", 10))
    return peer


def hung_up_on(rude, server):
    """Whether a connection that does what it should is ended nevertheless."""
    try:
        return rude.Rude(server.address).wait_closed(60)
    except OSError:
        return True


def test_there_are_so_many_connections_and_calls_on_each(start_server, rude):
    config = {"max_connections": 2, "max_connection_calls": 3, "receive_s": 600.0}
    with start_server(config=config) as server:
        peers = [unfinished(rude, server, 1) for _ in range(2)]
        assert hung_up_on(rude, server)
        assert not any(peer.closed or peer.ended for peer in peers)
        # The call too many is refused; those before it wait for the rest of their messages.
        for stream in (3, 5, 7):
            peers[0].begin(stream)
        assert peers[0].wait_ended(7)
        assert peers[0].closed or not {1, 3, 5} & set(peers[0].ended)
        peers[0].close()
        # Its place is free again.
        with server.client(retry=True, timeout_s=60) as client:
            assert client.describe().item_count == 300
        peers[1].close()


def test_a_connection_ends_at_its_age_with_what_runs_on_it(start_server, rude):
    with start_server(config={"max_connection_age_s": 1.0, "receive_s": 600.0}) as server:
        assert unfinished(rude, server, 1).wait_closed(60)


def test_a_host_that_nobody_knows_is_named(monkeypatch):
    def unknown(*_):
        raise OSError("Name or service not known")

    monkeypatch.setattr(transport.socket, "getaddrinfo", unknown)
    with pytest.raises(InvalidArgumentError, match=r"host: 'nowhere' is no address of this machine"):
        transport.check_host("nowhere")
