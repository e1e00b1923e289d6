"""Case studies: which names are most active at each token of a sentence."""
