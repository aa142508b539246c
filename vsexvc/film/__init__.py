"""Colour whole films: read, plan, render in parts, join, compare."""
