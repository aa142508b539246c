"""Help with files, threads, progress and error texts."""
