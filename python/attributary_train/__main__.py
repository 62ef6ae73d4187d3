"""`python -m attributary_train` is `attributary-train`."""

from attributary_train.cli import main

main()
