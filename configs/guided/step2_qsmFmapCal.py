"""Step 2 of the network for white errors: white errors in most maps, structured in the rest."""

config = {
    "run": "guided",
    "noise_ppm": [0.0004, 0.015],
    "model_errors": 1.0,
    "model_errors_chance": 0.3,
    "model_error_shares": {
        "local": 0.6, "tensor": 0.4, "background": 0.5, "coloured": 0.5, "apparent": 0.6,
        "fibres": 1.5,
    },
    "seed": 83,
}  # fmt: skip
