"""Colour arithmetic: CIE Lab, video colour spaces, chroma at full size."""
