"""Answers that can be proven later: signed receipts, runs with a Merkle root over their rows, payout statements.

What needs the extra `receipts` (the package cryptography) is imported where it is used, never by a server that signs
nothing.
"""
