"""The training run: steps, losses, discriminator, ablation."""
