"""Step 2 of the second training for white errors: as the first, more noise, fewer structured."""

config = {
    "run": "white",
    "noise_ppm": [0.0004, 0.02],
    "model_errors": 1.0,
    "model_errors_chance": 0.2,
    "model_error_shares": {
        "local": 0.6, "tensor": 0.4, "background": 0.5, "coloured": 0.5, "apparent": 0.6,
        "fibres": 1.5,
    },
    "seed": 97,
}  # fmt: skip
