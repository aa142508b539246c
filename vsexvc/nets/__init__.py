"""Define the network's parts: features, correspondence, correlation, motion and colour."""
