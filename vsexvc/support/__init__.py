"""Small helpers for files, threads and error texts, used by every room."""
