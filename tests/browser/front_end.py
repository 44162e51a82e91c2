"""Start a Jupyter server, and open and run its notebooks in Chromium."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import ipywidgets

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = ROOT / "runs" / "browser"
PATIENCE = float(os.environ.get("VLADVA_PATIENCE", "1"))  # factor on all timeouts, for a busy machine
SLOW = PATIENCE * 240_000  # milliseconds, for what needs the kernel: it may import torch or run a model
SOON = PATIENCE * 60_000  # milliseconds, for what the page does without the kernel
RETRY_AFTER = 20  # seconds that the kernel is idle before cells that have not run are run again
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NEWS_EXTENSION = "@jupyterlab/apputils-extension:announcements"  # opens a dialog and needs the network
IDLE = ".jp-Notebook-ExecutionIndicator[data-status=idle]"  # only in JupyterLab, not in Notebook 7
KERNEL_DIALOG = ".jp-Dialog .jp-mod-accept"  # the button of "Select Kernel"
MATHJAX_ERROR = "Cannot read properties of undefined (reading 'Queue')"
SETTINGS = {
    "@jupyterlab/notebook-extension/tracker.jupyterlab-settings": {
        "windowingMode": "none"
    },  # keep all cells in the page
}


def missing() -> str:
    """Say what has to be installed to run a browser; "" if nothing is missing."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return "playwright is not installed: pip install -e '.[browser]'"
    if system_chromium() is None:
        with sync_playwright() as playwright:
            if not Path(playwright.chromium.executable_path).exists():
                return "Chromium is not installed: apt-get install chromium, or playwright install chromium"
    return ""


def system_chromium() -> str | None:
    """Return the path of an installed Chromium or Chrome; None if there is none."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def chromium() -> Iterator[Any]:
    """Start a headless browser: the installed one, otherwise Playwright's."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # the sandbox needs rights that containers lack, and only our own pages are opened
        browser = playwright.chromium.launch(executable_path=system_chromium(), args=["--no-sandbox"], timeout=SLOW)
        try:
            yield browser
        finally:
            browser.close()


@dataclass(frozen=True)
class Server:
    """A running Jupyter server: its URL, its token and the folder that it serves."""

    url: str
    token: str
    folder: Path


@contextmanager
def jupyter(application: str, folder: Path, seconds: float = SLOW / 1000) -> Iterator[Server]:
    """Start `jupyter lab` or `jupyter notebook` on a free port with separate settings: `jupyter("lab", folder)`."""
    served, jupyter_home = folder / "notebooks", folder / "jupyter"
    served.mkdir(parents=True, exist_ok=True)
    for name, values in SETTINGS.items():
        _write_json(jupyter_home / "settings" / name, values)
    _write_json(
        jupyter_home / "config" / "labconfig" / "page_config.json", {"disabledExtensions": {NEWS_EXTENSION: True}}
    )
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", {"lab": "jupyterlab", "notebook": "notebook"}[application], "--no-browser"]
    command += ["--ServerApp.port=0", "--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={served}"]
    if hasattr(os, "getuid") and os.getuid() == 0:
        command.append("--allow-root")
    with open(folder / "server.log", "w") as log:
        process = subprocess.Popen(command, cwd=served, env=_environment(jupyter_home, token), stdout=log, stderr=log)
        try:
            yield Server(_url_of(process, jupyter_home / "runtime", folder / "server.log", seconds), token, served)
        finally:
            process.terminate()  # ends the kernels too
            process.wait(SOON / 1000)


def _environment(jupyter_home: Path, token: str) -> Mapping[str, str]:
    environment = {**os.environ, "JUPYTER_TOKEN": token, "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment.pop("MPLBACKEND", None)  # kernels use Jupyter's inline backend
    folders = {"CONFIG_DIR": "config", "DATA_DIR": "data", "RUNTIME_DIR": "runtime"}
    environment |= {f"JUPYTER_{name}": str(jupyter_home / folder) for name, folder in folders.items()}
    lab_folders = {"SETTINGS_DIR": "settings", "WORKSPACES_DIR": "workspaces"}
    return environment | {f"JUPYTERLAB_{name}": str(jupyter_home / folder) for name, folder in lab_folders.items()}


def _write_json(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def _url_of(process: subprocess.Popen, runtime: Path, log: Path, seconds: float) -> str:
    """Wait until the server listens and return its URL, which it writes to a file."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        for path in runtime.glob("jpserver-*.json"):
            try:
                return json.loads(path.read_text())["url"]
            except ValueError:  # written only in part so far
                break
        time.sleep(0.3)
    raise RuntimeError(f"Jupyter did not start in {seconds:.0f} s:\n{log.read_text()[-2000:]}")


def end_kernel(server: Server, path: str) -> None:
    """End the kernel of a notebook, which holds models in memory."""
    header = {"Authorization": f"token {server.token}"}
    with urlopen(Request(f"{server.url}api/sessions", headers=header)) as answer:
        sessions = json.load(answer)
    for session in sessions:
        if session["path"] == path:
            urlopen(Request(f"{server.url}api/sessions/{session['id']}", headers=header, method="DELETE")).close()


@dataclass
class NotebookPage:
    """A notebook open in the browser, and the errors that its page reported."""

    page: Any
    server: Server
    path: str
    errors: list[str] = field(default_factory=list)

    def cell(self, name: str) -> Any:
        """Return a cell by its id."""
        cells = json.loads((self.server.folder / self.path).read_text())["cells"]
        return self.page.locator(".jp-Notebook .jp-Cell").nth([cell["id"] for cell in cells].index(name))

    def output(self, name: str) -> Any:
        """Return the output of a cell."""
        return self.cell(name).locator(".jp-Cell-outputWrapper")

    def run_all(self) -> None:
        """Run all cells from the menu and wait for the last one. Raises RuntimeError if one fails.

        On a slow machine JupyterLab reports an idle kernel before it is connected, and loses the cells run until then.
        If the kernel stays idle while cells have not run, they are run again.
        """
        end, idle_seconds = time.monotonic() + SLOW / 1000, RETRY_AFTER
        while not self.page.evaluate(HAS_RUN):
            if time.monotonic() > end:
                raise TimeoutError(f"{self.path}: not all cells have run in {SLOW / 1000:.0f} s")
            if idle_seconds >= RETRY_AFTER:
                self.page.get_by_role("menuitem", name="Run", exact=True).click()
                self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
                idle_seconds = 0
            self.page.wait_for_timeout(1000)
            # in JavaScript: Playwright's click would call the handler below first and wait for it
            self.page.locator(KERNEL_DIALOG).evaluate_all("buttons => buttons.forEach(button => button.click())")
            idle_seconds = idle_seconds + 1 if self.page.locator(IDLE).count() else 0
        if traceback := self.page.evaluate(TRACEBACK):
            raise RuntimeError(f"{self.path}: {traceback}")


# The traceback of a cell that failed; JupyterLab marks it as an error, and since 4.6 as stderr.
TRACEBACK = """() => [...document.querySelectorAll('.jp-Notebook .jp-OutputArea-output')]
    .filter(output => /jupyter\\.(error|stderr)$/.test(output.dataset.mimeType))
    .map(output => output.textContent).find(text => text.includes('Traceback (most recent call last)')) || null"""
# Every code cell has a number, or one has failed, after which Jupyter runs no other. A folded cell shows no number, but
# the kernel runs the cells in order.
HAS_RUN = f"""() => {{
    const cells = [...document.querySelectorAll('.jp-Notebook .jp-CodeCell:not(:has(.jp-InputPlaceholder))')];
    const ended = cells.every(cell => /\\[\\d+\\]/.test(cell.querySelector('.jp-InputPrompt').textContent));
    return cells.length > 0 && (ended || ({TRACEBACK})() !== null);
}}"""


def _console_errors(message: Any, server: Server) -> list[str]:
    """Return an error that the page logged, with its location.

    Errors of other hosts do not count, such as Colab's badge without a network, nor does JupyterLab's debugger when it
    gets no answer from a kernel that has just ended.
    """
    url = message.location.get("url", "")
    is_external = url.startswith("https://") and not url.startswith(server.url)
    is_debugger = message.text.startswith("Could not restore the debugger state")
    return [f"{message.text} ({url})"] if message.type == "error" and not (is_external or is_debugger) else []


def _is_known_error(error: str) -> bool:
    """Recognize the error of ipywidgets 7 in JupyterLab 4: it calls MathJax 2 after writing a label.

    The widgets work nonetheless, and Colab's front end has MathJax 2.
    """
    return error == MATHJAX_ERROR and ipywidgets.__version__.startswith("7.")


def _click(button: Any) -> None:
    button.evaluate("button => button.click()")


@contextmanager
def opened(browser: Any, server: Server, path: str, tree: str | None = None) -> Iterator[NotebookPage]:
    """Open a notebook: `opened(browser, server, "gallery.ipynb")`; for Notebook 7, `tree` is "notebooks".

    In JupyterLab each notebook has a separate workspace: a shared one would open the other notebooks again.
    """
    tree = tree or f"lab/workspaces/{Path(path).stem}/tree"
    page = browser.new_page(viewport={"width": 1280, "height": 1500})
    page.set_default_timeout(SOON)
    # JupyterLab asks for a kernel if the file names none, or if cells are run before the kernel is ready
    page.add_locator_handler(page.locator(KERNEL_DIALOG), _click, no_wait_after=True)
    notebook = NotebookPage(page, server, path)
    page.on("console", lambda message: notebook.errors.extend(_console_errors(message, server)))
    page.on("pageerror", lambda error: notebook.errors.extend([] if _is_known_error(f"{error}") else [f"{error}"]))
    page.on("dialog", lambda dialog: (notebook.errors.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    try:
        page.goto(f"{server.url}{tree}/{path}?token={server.token}", timeout=SLOW)
        page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=SLOW)
        if tree.startswith("lab"):  # Notebook 7 has no indicator, and queues cells until the kernel is ready
            page.locator(IDLE).wait_for(timeout=SLOW)
        yield notebook
    except Exception:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"failed-{Path(path).stem}.png")
        raise
    finally:
        page.close()
        end_kernel(server, path)
