"""Batches out of a cache: shuffled for training, in order for evaluation."""
