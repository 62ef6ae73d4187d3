"""Families of generators behind one protocol: how each reads text, is called, is noised; which weights read it."""
