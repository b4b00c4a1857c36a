"""Step 2 of the third network: structured errors in all maps, most of them near the cone."""

config = {
    "run": "third",
    "noise_ppm": [0.0004, 0.015],
    "model_errors": 1.0,
    "model_errors_chance": 1.0,
    "model_error_shares": {
        "local": 0.6, "tensor": 0.4, "background": 0.5, "coloured": 0.5, "apparent": 0.6,
        "fibres": 1.5,
    },
    "seed": 71,
}  # fmt: skip
