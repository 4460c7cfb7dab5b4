"""What the commands have in common: how they are asked, and how they say what is wrong."""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import dspy

USER_ERROR = 2
"""The exit status of a command that cannot be run as it was given."""
INTERRUPTED = 130


class Refused(Exception):
    """A command cannot be run as it was given; the message says what to change."""


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the arguments, and of each option in one place what it is."""

    def __init__(self, *args: Any, **options: Any) -> None:
        shape = functools.partial(argparse.HelpFormatter, max_help_position=34)
        super().__init__(*args, **{"formatter_class": shape, **options})

    def error(self, message: str) -> NoReturn:
        """Say it, and end the process."""
        self.exit(USER_ERROR, f"{self.prog}: {' '.join(message.split())} (see {self.prog} --help)\n")


def told(command: str, run: Callable[[argparse.Namespace], object], options: argparse.Namespace) -> int:
    """Run a command; what it cannot do is told in one line.

    Returns:
        The exit status.
    """
    try:
        run(options)
        sys.stdout.flush()
    except Refused as refused:
        sys.stderr.write(f"dynscale {command}: {' '.join(str(refused).split())}\n")
        return USER_ERROR
    except BrokenPipeError:  # whoever read has read enough
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.stderr.write(f"dynscale {command}: interrupted\n")
        return INTERRUPTED
    return 0


@contextlib.contextmanager
def quiet(*names: str) -> Iterator[None]:
    """In the block, these loggers say nothing: the command's own output says what there is to say.

    Example:
        >>> import logging
        >>> with quiet("dspy"):
        ...     logging.getLogger("dspy").isEnabledFor(logging.ERROR)
        False
        >>> logging.getLogger("dspy").isEnabledFor(logging.ERROR)
        True
    """
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def line_of(error: BaseException) -> str:
    """An error in one line; with its kind, unless that says nothing to whoever uses a shell."""
    kind = "" if isinstance(error, (TypeError, ValueError)) else f"{type(error).__name__}: "
    return kind + " ".join(str(error).split())


# ---- arguments


def add_language_model(parser: argparse.ArgumentParser, *, default: str, names: tuple[str, ...] = ("--model",)) -> None:
    """Add the options that name a language model and what it is asked with.

    Args:
        parser: The command's.
        default: What is asked without them.
        names: What the first of them is called.
    """
    about = f"the language model, named the LiteLLM way, e.g. hosted_vllm/Qwen3-8B (default: {default})"
    parser.add_argument(*names, dest="model", metavar="MODEL", help=about)
    parser.add_argument("--api-base", metavar="URL", help="where it is served, e.g. http://localhost:8000/v1")
    parser.add_argument("--api-key", metavar="KEY", help="its key; local servers take any")
    parser.add_argument(
        "--max-tokens", type=positive, metavar="N", help="most tokens of a reply (default: DSPy's, or the server's)"
    )


def check_language_model(options: argparse.Namespace) -> None:
    """Refuse an address without a model.

    Raises:
        Refused: If that is what is given.
    """
    if options.api_base and not options.model:
        raise Refused("--api-base needs --model MODEL: what is the model called there?")


def language_model(options: argparse.Namespace, **settings: Any) -> dspy.LM:
    """The language model that is named.

    Args:
        options: Those of :func:`add_language_model`.
        settings: Further settings of it.
    """
    import dspy

    if options.api_base:
        settings = {"api_base": options.api_base, "api_key": "local", **settings}
    if options.api_key:
        settings["api_key"] = options.api_key
    if options.max_tokens:
        settings["max_tokens"] = options.max_tokens
    try:
        return dspy.LM(options.model, **settings)
    except Exception as error:
        raise Refused(f"--model {options.model}: {line_of(error)}") from error


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def whole(text: str) -> int:
    """A whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None


def number(text: str) -> float:
    """A number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}")
    return value


def port(text: str) -> int:
    """The number of a port; 0 for a free one."""
    value = whole(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"must be from 0 to 65535, got {text}")
    return value


def check_writable(option: str, path: Path | str | None) -> None:
    """Refuse a place that nothing can be written to, before minutes of work.

    Raises:
        Refused: If there is no such folder, or it is one.
    """
    if path is None:
        return
    target = Path(path)
    if target.is_dir():
        raise Refused(f"{option} {path} is a folder: name a file in it")
    if not target.absolute().parent.is_dir():
        raise Refused(f"{option} {path}: there is no folder {target.parent}")
