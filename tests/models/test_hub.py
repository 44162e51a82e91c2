"""Hub errors, produced by a small fake hub, become one sentence with the fix."""

import errno
import json
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import huggingface_hub
import pytest

import vladva_kit as vk
from vladva_kit.cli import app as cli
from vladva_kit.models.hub import HubError, download, is_hub_id

COMMIT = "0" * 40
SCRIPT = """
import sys, time
time.sleep = lambda seconds: None  # the client waits between attempts
from vladva_kit.models.hub import HubError, download
for name in sys.argv[1:]:
    try:
        print(download(name), flush=True)
    except HubError as error:
        print(error, flush=True)
"""


class FakeHub(BaseHTTPRequestHandler):
    """Serve me/complete, me/gated (access denied) and me/broken; a request for me/repaired completes its weights."""

    repaired = False
    sent: ClassVar[list[str]] = []  # complete files of me/broken

    def log_message(self, *_):
        return

    def do_HEAD(self):  # noqa: N802
        self.do_GET()

    def do_GET(self):  # noqa: N802
        FakeHub.repaired |= "me/repaired" in self.path
        name = next((name for name in ("complete", "gated", "broken") if f"me/{name}" in self.path), None)
        if name is None:
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        if "/tree/" in self.path:
            files = ["config.json", *(["model.safetensors"] if name == "broken" else [])]
            listed = [{"type": "file", "path": file, "size": 2, "oid": file} for file in files]
            return self.answer(200, json.dumps(listed).encode())
        if self.path.startswith("/api/"):
            return self.answer(200, json.dumps({"id": f"me/{name}", "sha": COMMIT, "siblings": []}).encode())
        if name == "gated":
            return self.answer(403, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
        file = self.path.rsplit("/", 1)[1]
        marks = {"ETag": f'"{name}-{file}"', "X-Repo-Commit": COMMIT, "X-Linked-Etag": f'"{name}-{file}"'}
        early = file == "model.safetensors" and not FakeHub.repaired
        if name == "broken" and self.command == "GET" and not early:
            FakeHub.sent.append(file)
        self.answer(200, b"" if early else b"{}", marks, length=2)

    def answer(self, status, body, headers=None, length=None):
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def download_all(endpoint, names, home):
    """Download each name in another process, since the client reads the hub's address at import; return the outputs."""
    environment = {
        **{key: value for key, value in os.environ.items() if "proxy" not in key.lower()},
        "HF_ENDPOINT": endpoint,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HOME": str(home),
        "HF_TOKEN": "hf_secretsecretsecret",
        "PYTHONPATH": os.getcwd(),
    }
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, *names],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "hf_secret" not in ran.stdout + ran.stderr
    lines = ran.stdout.splitlines()
    assert len(lines) == len(names), ran.stdout
    return lines


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Download every repository; me/broken a second time after its repair."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    names = ["me/complete", "me/gated", "me/nothing", "me/broken", "me/repaired", "me/broken"]
    home = tmp_path_factory.mktemp("home")
    lines = download_all(f"http://127.0.0.1:{server.server_port}", names, home)
    server.shutdown()
    return dict(zip([*names[:-1], "me/broken, repaired"], lines, strict=True))


def test_a_repository_is_downloaded_to_a_folder(outputs):
    assert outputs["me/complete"].endswith(COMMIT)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("me/gated", "'me/gated' is gated: accept its terms at https://huggingface.co/me/gated"),
        ("me/nothing", "the hub has no model 'me/nothing', or it is private"),
        ("me/broken", "the download of 'me/broken' was interrupted: retry; complete files are kept"),
    ],
)
def test_an_error_is_one_sentence(outputs, name, sentence):
    assert outputs[name].startswith(sentence)


def test_after_an_interruption_the_next_call_downloads_only_the_missing_files(outputs):
    folder = Path(outputs["me/broken, repaired"])
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert all(path.read_bytes() == b"{}" for path in folder.iterdir())
    assert FakeHub.sent == ["config.json", "model.safetensors"]


def test_a_hub_that_does_not_respond_is_unreachable(tmp_path):
    with socket.socket() as free:  # a port without a listener, once it is closed
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    (line,) = download_all(endpoint, ["me/complete"], tmp_path)
    assert (
        line.startswith("the hub is unreachable and 'me/complete' is not completely cached in ")
        and "pass a local folder" in line
    )


def test_offline_mode_is_named_and_the_command_line_prints_one_line(monkeypatch, capsys):
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set and 'me/nothing' is not completely cached"):
        vk.load_lvlm("me/nothing")
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        vk.Embedder.from_pretrained("me/no-adapter")
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set and 'me/no-clip' is not completely cached"):
        vk.load_baseline("me/no-clip")
    monkeypatch.setattr(sys, "argv", ["vladva", "check", "me/nothing"])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    printed = capsys.readouterr().err.strip()
    assert printed.startswith("HF_HUB_OFFLINE is set") and "\n" not in printed


def test_a_full_disk_is_named_and_other_errors_are_unchanged(monkeypatch):
    def fails(error):
        def download(*_, **__):
            raise error

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)

    fails(OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(HubError, match="no disk space is left for 'me/big' .*HF_HOME"):
        download("me/big")
    fails(RuntimeError("a bug"))  # not one of the hub's
    with pytest.raises(RuntimeError, match="a bug"):
        download("me/big")


def test_a_hub_id_has_one_slash_and_is_no_path():
    assert is_hub_id("Qwen/Qwen2-VL-2B-Instruct")
    assert not any(map(is_hub_id, ("emoji-llava", "./a", "/a/b", "a/b/c", "~/a")))
