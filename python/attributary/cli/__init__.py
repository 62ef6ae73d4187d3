"""`attributary <verb>`: serve, query, score, report, bundle, index, triton."""
