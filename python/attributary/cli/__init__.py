"""`attributary <verb>`: serve, query, bundle, demo."""
