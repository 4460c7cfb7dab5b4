"""``dynscale lab serve``: the small language model in the box, behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import argparse
import socket
import sys
import threading

from dynscale_dspy._shell import Refused, port


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``lab serve`` to a parser."""
    parser.description = (
        "Serve the small language model in the box behind an OpenAI-compatible endpoint, on the loopback interface "
        "only, until Ctrl-C."
    )
    about = "where to listen; 0 takes a free port (default: 8123)"
    parser.add_argument("--port", type=port, default=8123, metavar="N", help=about)
    parser.add_argument(
        "--model", choices=("large", "small"), default="large", help="which of the two models (default: large)"
    )


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        Refused: If it cannot be run as it was given.
    """
    try:
        from dynscale_dspy.lab.server import LabServer
    except ImportError as error:
        raise Refused(f"{error}: pip install 'dynscale-dspy[lab]'") from error
    _check_free(options.port)
    with LabServer(port=options.port, model=options.model) as server:
        sys.stdout.write(f"{server.model_name} at {server.url} (stop with Ctrl-C)\n")
        sys.stdout.flush()
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            sys.stderr.write("stopped\n")


def _check_free(number: int) -> None:
    """Refuse a port that somebody listens at already.

    Raises:
        Refused: If one does, or it may not be listened at.
    """
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", number))
        except OSError as error:
            raise Refused(f"--port {number}: {error.strerror}; --port 0 takes a free one") from None
