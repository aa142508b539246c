"""Run the training: steps, losses, discriminator, ablation."""
