"""Evaluation: protocols, metrics, baselines, tables."""
