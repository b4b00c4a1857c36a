"""Steps 0 to 2: phantoms, synthetic susceptibility maps, fields. NumPy, SciPy and CuPy, no Keras."""
