"""TensorFlow starts in silence, unless it cannot start."""

import subprocess
import sys


def run(script):
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )


def test_nothing_is_shown_and_the_error_output_works_again():
    done = run(
        "import os, sys\n"
        "from keras_si_cli.training import start\n"
        "start.import_quietly()\n"
        "import tensorflow as tf\n"
        "tf.function(lambda x: x + 1, jit_compile=True)(tf.ones(2))\n"
        "print('python', file=sys.stderr, flush=True)\n"
        "os.write(2, b'native')\n"
    )
    assert done.returncode == 0
    assert done.stdout == ""
    assert done.stderr == "python\nnative"


def test_what_was_held_back_is_shown_if_the_import_fails():
    done = run(
        "import os\n"
        "from keras_si_cli.training import start\n"
        "try:\n"
        "    with start._native_stderr_held_back():\n"
        "        os.write(2, b'the reason')\n"
        "        raise ImportError\n"
        "except ImportError:\n"
        "    os.write(2, b', then the error')\n"
    )
    assert done.stderr == "the reason, then the error"


def test_what_was_held_back_is_not_shown_for_a_ctrl_c():
    done = run(
        "import os, signal\n"
        "from keras_si_cli.training import start\n"
        "try:\n"
        "    with start._native_stderr_held_back():\n"
        "        os.write(2, b'chatter')\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt:\n"
        "    os.write(2, b'only this')\n"
    )
    assert done.stderr == "only this"
