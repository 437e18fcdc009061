"""The `lab` command. Each subcommand lives in a file of its own, imported when it is called."""

import codecs
import errno
import io
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from cyclopts import App, CycloptsError, Parameter

from lab.errors import InputError

COMMANDS = {
    "demo": "Make pictures with the bundled model and look at them: start here.",
    "generate": "Make images from prompts.",
    "compare": "Say what embeddings and settings change, how much, and how sure that is.",
    "judge": "Say whether an embedding helps, how much, and how sure that is.",
    "train": "Learn an embedding from a folder of images.",
    "encode": "Show what a prompt becomes: chunks, tokens, weights, embeddings, schedule.",
    "inspect": "Show what embedding files hold.",
    "convert": "Write an embedding in another file layout, or for another model.",
    "merge": "Mix embeddings into one.",
    "search": "Find the nearest prompts, images, embeddings or vocabulary tokens.",
    "compose": "Write prompts about keywords.",
    "rerun": "Make an image again from its own metadata.",
    "serve": "Serve a model over HTTP, to programs that speak OpenAI's API.",
    "models": "List what is bundled, or say what a folder or file is.",
}

BAD_INPUT, INTERRUPTED = 2, 130

app = App(
    name="lab",
    help="A text-conditioning lab for Stable Diffusion.",
    version=lambda: version("text-conditioning-lab"),
    help_format="plaintext",  # the default, markdown, costs a third of the start
    help_on_error=False,
    default_parameter=Parameter(negative_iterable=(), negative_none=()),
)
for _name, _help in COMMANDS.items():
    app.command(f"lab.cli.{_name}:{_name}", name=_name, help=_help)


_BYTES_OR_NUMBERS = "lab.bytes-or-numbers"


def _bytes_or_numbers(error: UnicodeError) -> tuple[str | bytes, int]:
    """What a stream writes for a character that it lacks: the byte that it was read from, or else its number."""
    assert isinstance(error, UnicodeEncodeError)
    found = error.object[error.start : error.end]
    made = (
        bytes([ord(one) - 0xDC00]) if "\udc80" <= one <= "\udcff" else one.encode("ascii", "backslashreplace")
        for one in found
    )
    return b"".join(made), error.end


codecs.register_error(_BYTES_OR_NUMBERS, _bytes_or_numbers)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what an encoding lacks is written as its number
            bytes_pass = (
                stream.errors == "surrogateescape"
            )  # the C locale, where names stay the bytes that they are
            stream.reconfigure(errors=_BYTES_OR_NUMBERS if bytes_pass else "backslashreplace")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # its folders at home need not be there
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except (InputError, CycloptsError) as error:
        print(f"lab: {_one_line(error)}{_noted(error)}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt as error:
        print(f"lab: interrupted; what was finished is on disk{_noted(error)}", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        print("lab: what it says cannot be written where it goes: the disk is full", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left of it is not tried again
        return BAD_INPUT
    return 0


def _noted(error: BaseException) -> str:
    """What else went wrong, such as with images that were still being written."""
    return "".join(f"; {note}" for note in dict.fromkeys(getattr(error, "__notes__", ())))


def _one_line(error: Exception) -> str:
    from pydantic import ValidationError

    from lab.config import Config, first_problem

    if isinstance(error.__cause__, ValidationError):
        return first_problem(Config, error.__cause__)
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
