"""Changing a bundle that is in use: add items, delete items, compact."""
