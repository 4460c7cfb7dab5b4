from __future__ import annotations

import signal
import socket
import subprocess
import sys

import pytest

from dynscale_dspy.cli import main


def test_serving_the_lab_from_a_shell():
    import httpx

    process = subprocess.Popen(
        [sys.executable, "-m", "dynscale_dspy.cli", "lab", "serve", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background has this signal ignored, and so have their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = line.split(" at ")[1].split()[0]
        models = httpx.get(f"{address}/models", timeout=10).json()
        assert models["data"][0]["id"] in line
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait(10)


def test_a_port_that_is_taken_is_told_in_a_line(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        assert main(["lab", "serve", "--port", str(number)]) == 2
    told = capsys.readouterr().err
    assert told == f"dynscale lab serve: --port {number}: Address already in use; --port 0 takes a free one\n"


def test_a_port_that_cannot_be(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["lab", "serve", "--port", "70000"])
    assert ended.value.code == 2
    assert "argument --port: must be from 0 to 65535, got 70000" in capsys.readouterr().err
