"""The trade between what an SAE reconstructs and how near its features are to tokens."""
