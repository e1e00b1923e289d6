"""Loss, step, state and loop of a training run."""
