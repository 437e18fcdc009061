import pytest

from lab.cli.main import main


@pytest.fixture
def cli(capsys):
    """Runs the command line in this process: arguments -> (exit code, stdout, stderr)."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run
