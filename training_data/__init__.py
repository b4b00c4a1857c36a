"""Steps 0 to 2: phantoms, synthetic maps, fields. NumPy, SciPy and CuPy, no Keras."""
