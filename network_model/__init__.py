"""Steps 4 to 7: the network, its training, fine-tuning, reconstruction and evaluation (Keras 3)."""
