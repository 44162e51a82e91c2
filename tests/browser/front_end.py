"""A Jupyter server and a page of it in Chromium, as a person has them before them."""

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
PICTURES = ROOT / "runs" / "browser"  # screenshots, to be looked at
PATIENCE = float(os.environ.get("VLADVA_PATIENCE", "1"))  # times as long: something else may keep the machine
SLOW = PATIENCE * 240_000  # milliseconds: a shared machine may take that long to import torch and to run a cell
SOON = PATIENCE * 60_000  # for what a page does by itself
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = "@jupyterlab/apputils-extension:announcements"  # asks the network for news, and asks whether it may
IDLE = ".jp-Notebook-ExecutionIndicator[data-status=idle]"  # JupyterLab's sign; Notebook 7 has none
MATHJAX = "Cannot read properties of undefined (reading 'Queue')"
ASKED = ".jp-Dialog .jp-mod-accept"  # the button of "Select Kernel"
RESTS = 20  # seconds without work after which cells that have not run will not run
SETTINGS = {
    "@jupyterlab/notebook-extension/tracker.jupyterlab-settings": {
        "windowingMode": "none"
    },  # keep all cells on the page
}


def missing() -> str:
    """What keeps a browser from being had, with the way out; empty where nothing does."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return "playwright is not installed: pip install -e '.[browser]'"
    if system_chromium() is None:
        with sync_playwright() as playwright:
            if not Path(playwright.chromium.executable_path).exists():
                return "there is no Chromium: apt-get install chromium, or playwright install chromium"
    return ""


def system_chromium() -> str | None:
    """The path of the machine's own Chromium, where it has one."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless browser: the machine's own, else the one that Playwright installed."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # no sandbox: it needs rights that a container does not give, and only our own pages are opened
        browser = playwright.chromium.launch(executable_path=system_chromium(), args=["--no-sandbox"], timeout=SLOW)
        try:
            yield browser
        finally:
            browser.close()


@dataclass(frozen=True)
class Server:
    """A running Jupyter: where it is, the token it was started with, and the folder it serves."""

    url: str
    token: str
    folder: Path


@contextmanager
def jupyter(application: str, folder: Path, seconds: float = SLOW / 1000) -> Iterator[Server]:
    """Starts `jupyter lab` or `jupyter notebook` on a free port, with settings of its own: `jupyter("lab", folder)`."""
    served, own = folder / "notebooks", folder / "jupyter"
    served.mkdir(parents=True, exist_ok=True)
    for name, values in SETTINGS.items():
        _write_json(own / "settings" / name, values)
    _write_json(own / "config" / "labconfig" / "page_config.json", {"disabledExtensions": {QUIET: True}})
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", {"lab": "jupyterlab", "notebook": "notebook"}[application], "--no-browser"]
    command += ["--ServerApp.port=0", "--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={served}"]
    if hasattr(os, "getuid") and os.getuid() == 0:
        command.append("--allow-root")
    with open(folder / "server.log", "w") as log:
        process = subprocess.Popen(command, cwd=served, env=_surroundings(own, token), stdout=log, stderr=log)
        try:
            yield Server(_address(process, own / "runtime", folder / "server.log", seconds), token, served)
        finally:
            process.terminate()  # kernels go with it
            process.wait(SOON / 1000)


def _surroundings(own: Path, token: str) -> Mapping[str, str]:
    surroundings = {**os.environ, "JUPYTER_TOKEN": token, "HF_HUB_OFFLINE": "1"}
    surroundings["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    surroundings.pop("MPLBACKEND", None)  # a kernel draws into the page
    places = {"CONFIG_DIR": "config", "DATA_DIR": "data", "RUNTIME_DIR": "runtime"}
    surroundings |= {f"JUPYTER_{name}": str(own / place) for name, place in places.items()}
    lab = {"SETTINGS_DIR": "settings", "WORKSPACES_DIR": "workspaces"}
    return surroundings | {f"JUPYTERLAB_{name}": str(own / place) for name, place in lab.items()}


def _write_json(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def _address(process: subprocess.Popen, runtime: Path, log: Path, seconds: float) -> str:
    """Where the server listens: it writes that down once it does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        for path in runtime.glob("jpserver-*.json"):
            try:
                return json.loads(path.read_text())["url"]
            except ValueError:  # half written
                break
        time.sleep(0.3)
    raise RuntimeError(f"Jupyter did not start in {seconds:.0f} s:\n{log.read_text()[-2000:]}")


def end_kernel(server: Server, path: str) -> None:
    """Ends what runs behind a notebook: it holds a model in memory."""
    header = {"Authorization": f"token {server.token}"}
    with urlopen(Request(f"{server.url}api/sessions", headers=header)) as answer:
        sessions = json.load(answer)
    for session in sessions:
        if session["path"] == path:
            urlopen(Request(f"{server.url}api/sessions/{session['id']}", headers=header, method="DELETE")).close()


@dataclass
class NotebookPage:
    """A notebook that is open in the browser, and what went wrong on the page."""

    page: Any
    server: Server
    path: str
    wrong: list[str] = field(default_factory=list)

    def cell(self, name: str) -> Any:
        """The cell of a name: the names are in the notebook, in their order."""
        return self.page.locator(".jp-Notebook .jp-Cell").nth(self.places[name])

    def output(self, name: str) -> Any:
        """What a cell shows."""
        return self.cell(name).locator(".jp-Cell-outputWrapper")

    def run_all(self) -> None:
        """By the menu, and back when the last cell has run. Raises RuntimeError where one has failed.

        JupyterLab calls a kernel idle before it has its connection, and loses what is asked of it until then (seen on
        a starved machine): where all rests and cells have not run, they are run again, as a person would.
        """
        end, rested = time.monotonic() + SLOW / 1000, RESTS
        while not self.page.evaluate(RAN):
            if time.monotonic() > end:
                raise TimeoutError(f"{self.path}: not all cells have run in {SLOW / 1000:.0f} s")
            if rested >= RESTS:
                self.page.get_by_role("menuitem", name="Run", exact=True).click()
                self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
                rested = 0
            self.page.wait_for_timeout(1000)
            # by itself: a click of Playwright's would call the handler below first, and wait for it to be of use
            self.page.locator(ASKED).evaluate_all("buttons => buttons.forEach(button => button.click())")
            rested = rested + 1 if self.page.locator(IDLE).count() else 0
        if failed := self.page.evaluate(FAILED):
            raise RuntimeError(f"{self.path}: {failed}")

    @property
    def places(self) -> dict[str, int]:
        """Where each cell of the notebook stands, by its name."""
        cells = json.loads((self.server.folder / self.path).read_text())["cells"]
        return {cell["id"]: place for place, cell in enumerate(cells)}


# What a cell that failed shows, if one has; JupyterLab has called it an error, and since 4.6 writes it as stderr.
FAILED = """() => [...document.querySelectorAll('.jp-Notebook .jp-OutputArea-output')]
    .filter(output => /jupyter\\.(error|stderr)$/.test(output.dataset.mimeType))
    .map(output => output.textContent).find(text => text.includes('Traceback (most recent call last)')) || null"""
# Each code cell has a number, or one has failed, after which Jupyter runs no more.
RAN = f"""() => {{
    const cells = [...document.querySelectorAll('.jp-Notebook .jp-CodeCell')];
    const ended = cells.every(cell => /\\[\\d+\\]/.test(cell.querySelector('.jp-InputPrompt').textContent));
    return cells.length > 0 && (ended || ({FAILED})() !== null);
}}"""


def _wrong(message: Any, server: Server) -> list[str]:
    """An error of the page's own, with its place; Colab's badge lies elsewhere, and there may be no network.

    Nor is it the page's that JupyterLab's debugger has no answer from a kernel that has just ended.
    """
    place = message.location.get("url", "")
    away = place.startswith("https://") and not place.startswith(server.url)
    debugger = message.text.startswith("Could not restore the debugger state")
    return [f"{message.text} ({place})"] if message.type == "error" and not (away or debugger) else []


def _of_ipywidgets_7(error: str) -> bool:
    """ipywidgets 7 calls MathJax.Hub of MathJax 2 after it has written a label; JupyterLab 4 has MathJax 3.

    The widgets are drawn whole and answer; Colab's own front end has the older one.
    """
    return error == MATHJAX and ipywidgets.__version__.startswith("7.")


def _press(button: Any) -> None:
    button.evaluate("button => button.click()")


@contextmanager
def opened(browser: Any, server: Server, path: str, place: str | None = None) -> Iterator[NotebookPage]:
    """Opens a notebook: `opened(browser, server, "gallery.ipynb")`; in Notebook 7 the place is "notebooks".

    In JupyterLab each has a workspace of its own: in a shared one the tabs of the others would be opened again.
    """
    place = place or f"lab/workspaces/{Path(path).stem}/tree"
    page = browser.new_page(viewport={"width": 1280, "height": 1500})
    page.set_default_timeout(SOON)
    # JupyterLab asks where a file names no kernel, or where cells are run before theirs is there
    page.add_locator_handler(page.locator(ASKED), _press, no_wait_after=True)
    shown = NotebookPage(page, server, path)
    page.on("console", lambda message: shown.wrong.extend(_wrong(message, server)))
    page.on("pageerror", lambda error: shown.wrong.extend([] if _of_ipywidgets_7(f"{error}") else [f"{error}"]))
    page.on("dialog", lambda dialog: (shown.wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    try:
        page.goto(f"{server.url}{place}/{path}?token={server.token}", timeout=SLOW)
        page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=SLOW)
        if place.startswith("lab"):  # Notebook 7 has no such sign; it keeps what is run until the kernel is there
            page.locator(IDLE).wait_for(timeout=SLOW)
        yield shown
    except Exception:
        PICTURES.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=PICTURES / f"went-wrong-{Path(path).stem}.png")
        raise
    finally:
        page.close()
        end_kernel(server, path)
