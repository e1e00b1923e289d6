"""Loss, step, state and loop of a training run, its checkpoints, and runs trained together."""
