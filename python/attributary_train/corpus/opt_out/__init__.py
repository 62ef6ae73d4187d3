"""Opt-out signals in and beside a user's own pictures, kept as dated facts with their source. Nothing here deletes."""
