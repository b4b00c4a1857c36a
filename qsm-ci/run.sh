#!/usr/bin/env bash
# QSMInvNet, dipole stage: localfield.nii.gz, mask.nii.gz [ppm], params.json -> chimap.nii.gz [ppm]
# Input and output folder may be given as arguments, for a run outside of the platform.
set -euo pipefail
IN="${1:-${QSMCI_INPUT:-/input}}"
OUT="${2:-${QSMCI_OUTPUT:-/output}}"
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

# The code is mounted read-only, and the user may have no home.
export PYTHONDONTWRITEBYTECODE=1 KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=3
exec "${PYTHON:-python3}" "$HERE/recon.py" "$IN" "$OUT"
