"""Training data: sequences from clips and pictures, augmentation, optical flow, retrieval."""
