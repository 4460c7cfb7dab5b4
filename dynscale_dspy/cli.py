"""The command line: ``dynscale demo``, ``check``, ``record``, ``replay``, ``doctor`` and ``lab serve``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from dynscale_dspy._shell import Parser, told


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, or 2 for what cannot be run as it was given."""
    from dynscale_dspy.commands import demo, doctor, serve
    from dynscale_dspy.replay import cli as replay
    from dynscale_dspy.tuning import cli as tuning

    parser = Parser(prog="dynscale", description="Better answers from DSPy programs for a budget.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    lab = Parser(add_help=False)
    for name, about, add_arguments, run in (
        ("demo", "compare the plain program, voting and DynScaling on a small model", demo.add_arguments, demo.run),
        ("check", "say whether scaling a program is worth it", tuning.add_arguments, tuning.check),
        ("record", "keep samples of a program, each with a score", tuning.add_record_arguments, tuning.record),
        ("replay", "replay allocation policies over recorded samples", replay.add_arguments, replay.run),
        ("doctor", "print versions, and what a server can do", doctor.add_arguments, doctor.run),
        ("lab", "the small language model in the box", None, None),
    ):
        command = commands.add_parser(name, help=about)
        if add_arguments is None:
            lab = command
            continue
        add_arguments(command)
        command.set_defaults(run=run, command=name)
    serving = lab.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "serve", help="serve it behind an OpenAI-compatible endpoint on loopback"
    )
    serve.add_arguments(serving)
    serving.set_defaults(run=serve.run, command="lab serve")

    options = parser.parse_args(arguments)
    # Without a network LiteLLM spends seconds on downloading its price list; the shipped one will do here.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    return told(options.command, options.run, options)


if __name__ == "__main__":
    sys.exit(main())
