"""Provide pretrained feature nets: from files, or made by pretraining."""
