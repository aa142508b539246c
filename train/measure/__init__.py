"""Evaluate: protocols, metrics, baselines, tables."""
