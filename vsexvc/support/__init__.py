"""Helpers for files, threads, progress and error texts."""
