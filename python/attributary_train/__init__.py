"""Corpora, teachers, students and their evaluation: everything that happens before a bundle is served."""
