"""Step 4: domain-adaptive training."""
