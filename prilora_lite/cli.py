"""The command ``prilora-lite``."""

from __future__ import annotations

import argparse
import gc
import io
import sys
import warnings
from collections.abc import Callable
from typing import Any

from prilora_lite.experiments import commands as experiments
from prilora_lite.teaching import commands as teaching

# Modules whose package has another name, or comes with another
_PACKAGES = {"traitlets": "nbgrader", "alembic": "nbgrader", "IPython": "ipython", "google": "protobuf"}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status. A user's mistake ends in one message, without a traceback."""
    options = _parser().parse_args(arguments)
    if options.loads:
        _say_that_it_loads()
        gc.set_threshold(10_000, 10, 10)  # loading makes some 10^6 objects, none of them garbage: a tenth sooner
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal in ASCII shows ? for what it lacks, and nothing is lost
    warnings.formatwarning = _once()
    try:
        return options.run(options)
    except ModuleNotFoundError as error:
        package = _PACKAGES.get(error.name, error.name)  # no name: our own message, which says what to install
        print(f"prilora-lite: {error}" + (f": pip install {package}" if package else ""), file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"prilora-lite: {_said(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped" + "; started again, it goes on from here" * options.goes_on, file=sys.stderr)
        return 130


class Command(argparse.ArgumentParser):
    """A parser whose help names what is in the library's tables: these load slowly, so only when the help is shown.

    Args:
        names: gives the text for each ``{name}`` in the help of the options; None: there are none.
    """

    def __init__(self, *args: Any, names: Callable[[], dict[str, str]] | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.names = names

    def format_help(self) -> str:
        if self.names:
            _say_that_it_loads()
            names = self.names()
            for action in self._actions:
                action.help = action.help and action.help.format(**names)
        return super().format_help()


def _once() -> Callable[..., str]:
    """How to print warnings: each text once, without the line of this package's code that it came from."""
    told: set[str] = set()

    def text(message: Warning | str, *_: Any, **__: Any) -> str:
        again = str(message) in told
        told.add(str(message))
        return "" if again else f"warning: {message}\n"

    return text


def _said(error: Exception) -> str:
    """The message of an error, and that of the system in the order of our own: first the file, then what is wrong."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _say_that_it_loads() -> None:
    print("loading torch and transformers ...", file=sys.stderr, flush=True)


def _parser() -> Command:
    parser = Command(
        prog="prilora-lite", description="PRILoRA: low-rank adaptation with rising ranks, pruned while it trains."
    )
    parser.set_defaults(loads=False, goes_on=False)
    commands = parser.add_subparsers(required=True, metavar="command")
    experiments.add_to(commands)
    teaching.add_to(commands)
    return parser
