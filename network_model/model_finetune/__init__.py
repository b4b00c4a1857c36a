"""Step 5: fine-tuning on one subject."""
