"""Make training data: sequences from clips and pictures, augmentation, optical flow, retrieval."""
