"""The slow teacher asked about what a fast bundle answered: agreement a query, and whether it drifts."""
