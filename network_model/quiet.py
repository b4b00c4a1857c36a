"""Imports Keras without TensorFlow's start-up lines; to be imported before anything that needs it.

TensorFlow uses oneDNN's convolutions unasked only on CPUs with AVX512 or AMX; on one with AVX2
alone they are as right and take less than half the time (docs/NOTEBOOK.md). Here they always are.
TensorFlow logs to standard error before its log levels are read, whatever `TF_CPP_MIN_LOG_LEVEL`
says, so the file descriptor itself is turned away during the import. Errors are raised as ever.
"""

import contextlib
import logging
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# On a GPU the physics (CuPy) needs some of its memory too.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


@contextlib.contextmanager
def silent_stderr():
    """Send file descriptor 2 to nowhere inside the block."""
    try:
        kept = os.dup(2)
    except OSError:  # closed, as daemons have it
        yield
        return
    if sys.stderr is not None:
        sys.stderr.flush()
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


if "keras" not in sys.modules:
    with silent_stderr():
        import keras
    # Whatever an old ~/.keras/keras.json says.
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    # Its warnings are of retraced graphs and of the FFT's gradient: nothing that a user can act on.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
