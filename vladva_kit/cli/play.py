"""Open the playground in the browser: `vladva play`."""

from __future__ import annotations

import json
import threading
import webbrowser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated, Any

import typer

from vladva_kit.cli.options import load_embedder, quiet_libraries, resolve_data

SHIPPED = {"base": "emoji-llava", "CLIP": "emoji-clip", "fine-tuned": "emoji-llava-vladva"}
GALLERY = 200  # pairs; the page holds a score for each image with each caption
ENDPOINT = "message"
MAX_REQUEST = 32 * 2**20  # bytes; two images of the largest size that the page sends need less


def play(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Models to compare, the one before the fine-tune first. Default: the shipped ones."),
    ] = None,
    cases: Annotated[str | None, typer.Option(help="Winoground cases: a folder or a Hub id. Default: shipped.")] = None,
    pairs: Annotated[str | None, typer.Option(help="Pairs to search: an imagefolder. Default: shipped.")] = None,
    split: Annotated[str, typer.Option(help="Split of these pairs.")] = "test",
    port: Annotated[int, typer.Option(help="Port on this computer; 0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the browser.")] = True,
) -> None:
    """Probe Winoground cases and search images with several models, on a page in the browser. Stop it with Ctrl+C."""
    import vladva_kit as vk

    quiet_libraries()
    names = SHIPPED if not models else dict(zip(models, models, strict=True))
    typer.echo(f"loading {', '.join(names.values())} …")
    embedders = {label: load_embedder(name) for label, name in names.items()}
    loaded = vk.load_pairs(resolve_data(pairs), split)[:GALLERY] if pairs else None
    page = vk.playground(embedders, cases and resolve_data(cases), loaded)
    with page_server(page, port) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        typer.echo(f"playground: {url} (stop with Ctrl+C)")
        if browser:
            webbrowser.open(url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("stopped")


def page_server(page: Any, port: int = 0) -> ThreadingHTTPServer:
    """Return a server of a playground, for this computer only: `with page_server(page) as server: ...`.

    Raises OSError if the port is taken.
    """
    lock = threading.Lock()  # one message at a time: the models' caches are shared

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self._is_local():
                return self.send_error(403)
            if self.path != "/":
                return self.send_error(404)
            with lock:
                content = page.html(ENDPOINT).encode()
            self._send(content, "text/html; charset=utf-8")

        def do_POST(self) -> None:
            # a page of another site can send no JSON without asking first, which is not answered
            is_json = self.headers.get("Content-Type") == "application/json"
            length = self.headers.get("Content-Length", "")
            if not self._is_local():
                return self.send_error(403)
            if self.path != f"/{ENDPOINT}" or not is_json:
                return self.send_error(404)
            if not length.isdigit() or int(length) > MAX_REQUEST:
                return self.send_error(413)
            try:
                message = json.loads(self.rfile.read(int(length)))
            except ValueError:
                return self.send_error(400)
            with lock:
                reply = page.handle(message)
            self._send(json.dumps(reply).encode(), "application/json")

        def _is_local(self) -> bool:
            """Refuse other host names: a site could point its name to this computer and read the answers."""
            host = self.headers.get("Host", "").rpartition(":")[0]
            return host in ("127.0.0.1", "localhost")

        def _send(self, content: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Print nothing for each request."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    return server
