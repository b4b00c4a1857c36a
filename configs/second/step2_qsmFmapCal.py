"""Step 2 of the second network: white and structured errors of realistic spread."""

config = {
    "run": "second",
    "noise_ppm": [0.0004, 0.015],
    "model_errors": 1.0,
    "model_errors_chance": 0.5,
    "seed": 59,
}
