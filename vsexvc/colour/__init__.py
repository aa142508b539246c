"""Convert colours: CIE Lab, video colour spaces (matrix, transfer, primaries), chroma at full size, transparency."""
