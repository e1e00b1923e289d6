"""Anchors of features: embeddings or a layer's own, the nearest of each, and the anchor loss."""
