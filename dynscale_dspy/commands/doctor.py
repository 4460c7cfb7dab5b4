"""``dynscale doctor``: what is installed, who makes requests, and what a server can do."""

from __future__ import annotations

import argparse
import importlib.metadata as metadata
import inspect
import json
import platform
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dynscale_dspy import __version__
from dynscale_dspy._shell import (
    Refused,
    add_language_model,
    check_language_model,
    check_writable,
    language_model,
    number,
    quiet,
)
from dynscale_dspy._words import counted

if TYPE_CHECKING:
    from dynscale_dspy.execution.probing import Finding, Route

PACKAGE = "dynscale-dspy"
NEEDED = ("dspy", "litellm", "numpy", "scipy", "pydantic")
OPTIONAL: Mapping[str, tuple[str, ...]] = {
    "lab": ("rich", "safetensors", "starlette", "tokenizers", "uvicorn"),
    "plots": ("matplotlib",),
    "ray": ("ray",),
    "otel": ("opentelemetry-api",),
}
"""What a user may install besides, by the name of the extra."""
STDOUT = "-"
FEW = 256
"""Tokens of a reply that are asked for, unless told otherwise: a model that thinks first needs some."""

MEANING: Mapping[str, tuple[str, str, str]] = {
    "answers": ("answers", "", ""),
    "usage": ("reports usage", "budgets in tokens are exact", "budgets in tokens are at the most that it can be"),
    "n": ("takes n > 1", "samples of a call share a request", "each sample makes a request of its own"),
    "seed": ("takes a seed", "", "nothing is lost: it is left out"),
    "logprobs": ("tells logprobs", "votes can be weighed with probabilities=True", "probabilities=True has no effect"),
    "prefill": ("goes on with a message", "chains can be begun for it", "earlier attempts go into an input field"),
}
"""What each finding is called, and what it means for samples where it is so and where it is not."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``doctor`` to a parser."""
    parser.description = (
        "Print what is installed and which engine of DSPy's would make requests; with --model, also try with a few "
        "small requests what a server takes."
    )
    add_language_model(parser, default="none is asked")
    parser.add_argument(
        "--timeout", type=number, default=60.0, metavar="SECONDS", help="longest wait for a reply (default: 60)"
    )
    about = "write the report as JSON here (default: print it)"
    parser.add_argument("--json", nargs="?", const=STDOUT, metavar="OUT", help=about)


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        Refused: If it cannot be run as it was given, or the server does not answer; the report is printed first.
    """
    check_language_model(options)
    if options.json not in (None, STDOUT):
        check_writable("--json", options.json)
    found = installed()
    route = _route(options) if options.model else None
    report: dict[str, Any] = {**found, "route": None}
    if route is not None:
        report["route"] = {"api_base": options.api_base, **route.as_dict()}
    text = _without_secrets(json.dumps(report, indent=1, ensure_ascii=False) + "\n", options)
    if options.json == STDOUT:
        sys.stdout.write(text)
    else:
        if options.json:
            with open(options.json, "w", encoding="utf-8") as file:
                file.write(text)
        sys.stdout.write(_without_secrets(render(found, route, options.api_base), options))
    if route is not None and not route.answers:
        raise Refused(f"{options.model} does not answer")


def installed() -> dict[str, Any]:
    """What is installed, and which engines DSPy has, as values of JSON."""
    return {
        "dynscale_dspy": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in NEEDED},
        "extras": {extra: {name: _version(name) for name in names} for extra, names in OPTIONAL.items()},
        "engines": _engines(),
    }


def render(found: Mapping[str, Any], route: Route | None, api_base: str | None = None) -> str:
    """The report as text.

    Args:
        found: What :func:`installed` says.
        route: What was found of a server; None if none was asked.
        api_base: Where it is; None for the provider's own address.
    """
    packages = ", ".join(f"{name} {version or 'missing'}" for name, version in found["packages"].items())
    lines = [f"dynscale_dspy {found['dynscale_dspy']}, Python {found['python']}, {found['platform']}", packages]
    for extra, versions in found["extras"].items():
        missing = [name for name, version in versions.items() if version is None]
        if missing:
            lines.append(f"[{extra}] no: {', '.join(missing)} missing; pip install '{PACKAGE}[{extra}]'")
        else:
            lines.append(f"[{extra}] yes: {', '.join(f'{name} {version}' for name, version in versions.items())}")
    lines.append(f"requests are made by {_chosen(found['engines'])}")
    if route is None:
        lines.append("to try a server: dynscale doctor --model MODEL --api-base URL")
        return "\n".join(lines) + "\n"
    lines.append("")
    lines.append(
        f"{route.model}{f' at {api_base}' if api_base else ''}, asked by {route.engine}: "
        f"{counted(route.requests, 'request')}, {route.seconds:.1f} s"
    )
    width = max(len(name) for name, _, _ in MEANING.values())
    for key, finding in route.findings.items():
        name, where_so, where_not = MEANING[key]
        lines.append(f"  {name:{width}}  {_said(finding, where_so if finding.able else where_not)}")
    return "\n".join(lines) + "\n"


def _said(finding: Finding, meaning: str) -> str:
    verdict = {True: "yes", False: "no", None: "unclear"}[finding.able]
    return verdict + "".join(f"; {part}" for part in (finding.note, meaning) if part)


def _route(options: argparse.Namespace) -> Route:
    from dynscale_dspy.execution.probing import probe

    settings: dict[str, Any] = {"cache": False, "num_retries": 0, "timeout": options.timeout}
    with quiet("dspy"):  # what fails here is in the report
        if options.max_tokens:
            return probe(language_model(options, **settings))
        try:
            return probe(language_model(options, max_tokens=FEW, **settings))
        except Refused:  # of models that reason DSPy wants to hear of many tokens, or of none
            return probe(language_model(options, **settings))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _engines() -> list[str]:
    """Those of DSPy's engines that make requests, the one that it prefers first."""
    import dspy

    own = "engine" in inspect.signature(dspy.LM.__init__).parameters
    return ["native", "litellm"] if own else ["litellm"]


def _chosen(engines: list[str]) -> str:
    if engines == ["litellm"]:
        return "LiteLLM"
    return "DSPy's own engine for the providers it knows, by LiteLLM for others and for several samples at once"


def _without_secrets(text: str, options: argparse.Namespace) -> str:
    """A report without the key, and a name and a password in the address: servers and clients may repeat them."""
    user = re.search("//([^/@]+@)", options.api_base or "")
    for secret in (options.api_key, user and user[1]):
        if secret:
            text = text.replace(secret, "").replace(json.dumps(secret, ensure_ascii=False)[1:-1], "")
    return text
