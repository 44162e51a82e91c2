"""The command line: it starts quickly, lists its commands and reports errors on one line."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from vladva_kit.cli.app import app, main

run = CliRunner().invoke
COMMANDS = ["demo", "play", "train", "mine", "eval", "compare", "check", "memory", "export"]
COMMANDS += ["embed", "search", "index", "caption"]


def test_help_does_not_import_torch():
    code = (
        "import sys; from typer.testing import CliRunner; from vladva_kit.cli.app import app; "
        "r = CliRunner().invoke(app, ['--help']); sys.exit(r.exit_code or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_help_lists_the_commands_in_order():
    lines = run(app, ["--help"], env={"COLUMNS": "120"}).output.splitlines()
    first_words = [line.strip("│ ").split(" ")[0] for line in lines]
    assert [word for word in first_words if word in COMMANDS] == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    shown = run(app, [command, "--help"])
    assert shown.exit_code == 0 and f"Usage: root {command} " in shown.output


def test_an_error_is_printed_on_one_line_with_status_2(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["vladva", "eval", "emoji-lama"])
    with pytest.raises(SystemExit) as stopped:
        main()
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and "emoji-llava" in error and error.count("\n") == 1
