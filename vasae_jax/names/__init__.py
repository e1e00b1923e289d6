"""Names of features by token embeddings and by the layer itself, and the evidence for them."""
