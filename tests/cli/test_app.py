"""The command line: it starts quickly, lists its commands and reports errors on one line."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

import vladva_kit as vk
from vladva_kit.cli.app import app, main
from vladva_kit.models.load import UnknownModel

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


def test_the_version_is_printed():
    shown = run(app, ["--version"])
    assert shown.exit_code == 0 and shown.output == f"vladva {vk.__version__}\n"


def test_shells_can_complete_commands():
    assert "--install-completion" in run(app, ["--help"], env={"COLUMNS": "120"}).output


@pytest.mark.parametrize("arguments", [["--debug", "eval", "emoji-lama"], ["eval", "emoji-lama", "--debug"]], ids=str)
def test_debug_shows_the_traceback(monkeypatch, arguments):
    monkeypatch.setattr(sys, "argv", ["vladva", *arguments])
    with pytest.raises(UnknownModel, match="emoji-lama"):
        main()


def test_an_unexpected_error_is_one_line_that_names_debug(monkeypatch, capsys):
    def fail(*_):
        raise KeyError("a bug")

    monkeypatch.setattr("vladva_kit.cli.evaluate.load_embedder", fail)
    monkeypatch.setattr(sys, "argv", ["vladva", "eval", "emoji-llava"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "KeyError: 'a bug'; add --debug to see the traceback\n"
