"""Candidate search: FAISS in process; other engines behind the same protocol."""
