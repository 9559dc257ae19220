"""Training: one loop for every stage, exact checkpoints, and which parameters each stage trains."""
