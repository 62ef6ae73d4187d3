"""Generated protocol classes; built from `proto/attributary/v1`, never edited."""
