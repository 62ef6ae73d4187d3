"""The core: query -> ranked items -> shares -> creator totals. Knows no transport."""
