"""The gateway's own histograms show what prometheus_client's would."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from attributary.gateway.metrics import SECONDS, Histograms, Metrics

NAMES = st.text('aZ9 "\\é', max_size=5)


def page(registry):
    # When a series began is not told.
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


@given(st.lists(st.tuples(NAMES, st.floats(0, 20) | st.sampled_from(SECONDS)), max_size=20))
def test_the_page_is_that_of_the_library(observed):
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    own = Histograms("seconds", "Words.", SECONDS, "phase", ours)
    library = Histogram("seconds", "Words.", ("phase",), buckets=SECONDS, registry=theirs)
    for name, value in observed:
        own.labels(name).observe(value)
        library.labels(name).observe(value)
    assert page(ours) == page(theirs)


def test_calls_are_on_the_page_by_method():
    metrics = Metrics()
    metrics.call("Attribute", "OK", 0.003)
    text = generate_latest(metrics.registry).decode()
    assert 'attributary_request_seconds_bucket{le="0.0025",method="Attribute"} 0.0' in text
    assert 'attributary_request_seconds_bucket{le="0.005",method="Attribute"} 1.0' in text
    assert 'attributary_request_seconds_count{method="Attribute"} 1.0' in text
