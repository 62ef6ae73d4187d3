"""`python -m attributary` is `attributary`."""

from attributary.cli.main import main

main()
