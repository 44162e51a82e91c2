"""Draw the package's architecture from its imports: `python docs/architecture.py` writes docs/architecture.svg."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "vladva_kit"
# the direction in which data flows; a module may import from its own subpackage or an earlier one
ORDER = (
    "emoji_world", "models", "embedder", "data", "training", "evaluation",
    "checks", "search", "analysis", "plots", "widgets", "cli",
)  # fmt: skip
PURPOSE = {
    "emoji_world": "scenes, captions, truth",
    "models": "load an LVLM",
    "embedder": "prompts, soft prompts, LoRA, encode",
    "data": "pairs, streams, validation",
    "training": "losses, the step, fit",
    "evaluation": "benchmarks, intervals, tables",
    "checks": "eight checks of any LVLM",
    "search": "shards, index",
    "analysis": "what changes inside",
    "plots": "arrays in, a figure out",
    "widgets": "probe, compose, search, chat",
    "cli": "vladva demo, train, eval, …",
}
BOX, GAP, LEFT, TOP = (330, 46), 16, 24, 56


def imports(package: Path = PACKAGE) -> list[tuple[Path, int, str, bool]]:
    """List the package's own imports: (file, line, imported module, whether it is inside a function)."""
    found = []
    for path in sorted(package.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nested = {
            id(node)
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            for node in ast.walk(function)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package.name:
                parts = node.module.split(".")
                modules = [node.module] if len(parts) > 1 else [f"{node.module}.{name.name}" for name in node.names]
            elif isinstance(node, ast.Import):
                modules = [name.name for name in node.names if name.name.startswith(f"{package.name}.")]
            else:
                continue
            found += [(path, node.lineno, module, id(node) in nested) for module in modules]
    return found


def counted_edges() -> Counter[tuple[str, str]]:
    """Count the imports between subpackages: {("training", "data"): 9, …}."""
    edges: Counter[tuple[str, str]] = Counter()
    for path, _, module, _ in imports():
        importer, imported = path.relative_to(PACKAGE).parts[0], module.split(".")[1]
        if importer in ORDER and imported in ORDER and importer != imported:
            edges[importer, imported] += 1
    return edges


def draw() -> str:
    """Return the architecture as SVG: a box per subpackage from top to bottom, an arc per importing pair."""
    width, height = BOX
    y = {name: TOP + index * (height + GAP) for index, name in enumerate(ORDER)}
    total = TOP + len(ORDER) * (height + GAP) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 780 {total}" font-family="sans-serif" fill="#222">',
        f'<rect width="780" height="{total}" fill="white"/>',
        f'<text x="{LEFT}" y="32" font-size="17" font-weight="bold">vladva_kit: each subpackage imports only from '
        "those above it</text>",
    ]
    for (importer, imported), count in sorted(counted_edges().items()):
        start, end = y[importer] + height / 2, y[imported] + height / 2
        bend = LEFT + width + 30 + 30 * (ORDER.index(importer) - ORDER.index(imported))
        thickness = min(4.0, 0.8 + count / 6)
        parts.append(
            f'<path d="M {LEFT + width} {start} C {bend} {start}, {bend} {end}, {LEFT + width} {end}" fill="none" '
            f'stroke="#0072B2" stroke-opacity="0.55" stroke-width="{thickness:.1f}">'
            f"<title>{importer} imports {imported}: {count}</title></path>"
        )
    for name in ORDER:
        files = [path for path in (PACKAGE / name).glob("*.py") if path.name != "__init__.py"]
        lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
        parts += [
            f'<rect x="{LEFT}" y="{y[name]}" width="{width}" height="{height}" rx="6" '
            'fill="#F2F6FA" stroke="#56789A"/>',
            f'<text x="{LEFT + 12}" y="{y[name] + 20}" font-size="15" font-weight="bold">{name}</text>',
            f'<text x="{LEFT + 12}" y="{y[name] + 38}" font-size="12.5">{PURPOSE[name]}</text>',
            f'<text x="{LEFT + width - 10}" y="{y[name] + 20}" font-size="11.5" text-anchor="end" fill="#555">'
            f"{len(files)} files, {round(lines, -2):,} lines</text>",
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "architecture.svg").write_text(draw(), encoding="utf-8")
    print("docs/architecture.svg")
