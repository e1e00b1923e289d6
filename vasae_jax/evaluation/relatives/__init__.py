"""What stands beside a feature: others like it, tokens that it raises, its match elsewhere."""
