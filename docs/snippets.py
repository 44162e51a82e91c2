"""Write the Python code of README.md and docs/ to one script per page: `python docs/snippets.py FOLDER`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def write_snippets(folder: Path) -> list[Path]:
    """Write the scripts, for a type checker, and return them: `write_snippets(Path("runs/snippets"))`."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        code = "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
        if code:
            written.append(folder / f"{page.stem.replace('-', '_')}.py")
            written[-1].write_text(code, encoding="utf-8")
    return written


if __name__ == "__main__":
    print(*write_snippets(Path(sys.argv[1])), sep="\n")
