"""The package as a whole."""

import subprocess
import sys

from tests.conftest import ROOT


def test_importing_needs_neither_tensorflow_nor_torch():
    program = "import flax_augtl, main, sys; print(sorted({'tensorflow', 'torch', 'keras'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "[]", done.stderr


def test_predictions_do_not_wait_for_libraries_of_other_modes():
    program = (
        "import sys; from flax_augtl import cli; "
        "slow = {'grain', 'sklearn', 'scipy', 'matplotlib', 'pandas', 'tensorflow_datasets', 'tensorboardX', 'onnx'}; "
        "print(sorted(slow & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
