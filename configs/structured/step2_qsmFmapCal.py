"""Step 2 of the network for structured errors: white and structured errors of realistic spread."""

config = {
    "run": "structured",
    "noise_ppm": [0.0004, 0.015],
    "model_errors": 1.0,
    "model_errors_chance": 0.55,
    "seed": 47,
}
