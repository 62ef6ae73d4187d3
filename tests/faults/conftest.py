"""Counts by promise, printed as one table at the end: what was sent, admitted, refused, failed and lost."""

import pytest

COLUMNS = ("sent", "admitted", "refused", "failed", "lost")
TABLE = pytest.StashKey[dict]()


@pytest.fixture
def tally(request):
    """Function: promise, counts by column; they add up over tests."""
    table = request.config.stash.setdefault(TABLE, {})

    def count(promise, **counts):
        assert set(counts) <= set(COLUMNS)
        row = table.setdefault(promise, dict.fromkeys(COLUMNS, 0))
        for column, number in counts.items():
            row[column] += number

    return count


def pytest_terminal_summary(terminalreporter, config):
    """The table; a promise whose test failed before it counted is not in it, and its test is among the failed."""
    table = config.stash.get(TABLE, {})
    if table:
        wide = max(map(len, table))
        terminalreporter.section("counts by promise")
        terminalreporter.write_line(f"{'':{wide}}" + "".join(f"{column:>10}" for column in COLUMNS))
        for promise, row in table.items():
            terminalreporter.write_line(
                f"{promise:{wide}}" + "".join(f"{row[column]:>10,}" for column in COLUMNS)
            )
