"""Scoring logs of generated pictures: shards in, Parquet shards out, resumable; docs/batch.md is the contract."""
