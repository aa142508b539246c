"""Handle weights files: known models, the cache and download, loading and saving."""
