"""Run experiments. Each run is stored in its own file, so an interrupted study resumes after its last run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import vladva_kit as vk
from experiments.paper.blind import blind_baselines
from experiments.paper.context import study_context
from experiments.paper.plan import EXPERIMENTS, Plan, Run, experiment, trained
from experiments.paper.prompts import EMOJI_PROMPTS, PRETRAINED_PROMPTS, study_prompts
from experiments.paper.runs import train_and_evaluate
from vladva_kit.data.pairs import load_pairs
from vladva_kit.embedder.identity import PACKAGE, code_digest, content_key, image_key, versions
from vladva_kit.models.files import write_json
from vladva_kit.models.load import SHIPPED

PAPER = Path(__file__).parent
SEPARATE = ("blind", "context", "prompts")  # experiments that are not variants of a run
CODE_OF_RUNS = (  # all that a run executes; the plan is not part of it, since a run's settings are in its file's name
    *(PACKAGE / name for name in ("emoji_world", "models", "embedder", "data", "training", "evaluation", "analysis")),
    PACKAGE / "cli" / "demo.py",
    *(PAPER / f"{name}.py" for name in ("runs", "measures", "representations", "swaps")),
)


def run_experiments(
    names: Sequence[str],
    plan: Plan,
    out: Path,
    command: str = "python -m experiments.paper ablate",
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Run what is missing of these experiments, write OUT/results.json, and return its content.

        run_experiments(["components", "rank"], Plan(steps=100), Path("runs/ablation"))

    `names` are keys of EXPERIMENTS or of SEPARATE. The name of a run's file depends on its settings, the
    weights, the data, the code and the libraries' versions, so a change of any of them starts new runs and leaves the
    old files alone. The results contain every experiment of the plan whose runs are complete. Raises ValueError for an
    unknown name before anything is run.
    """
    experiments = [experiment(name, plan) for name in names if name not in SEPARATE]
    fingerprints = {model: _fingerprint(model) for model in ("emoji-llava", "emoji-clip")}
    runs = list(dict.fromkeys(run for one in experiments for run in one.runs()))
    for number, run in enumerate(runs, start=1):
        path = _path(out, run, fingerprints)
        done = path.is_file()
        log(f"{number}/{len(runs)} {_title(run)}{': done before' if done else ''}")
        if not done:
            write_json(path, train_and_evaluate(run, out / "cache" / _data_of(run)), indent=None)
    results = _collect(plan, out, fingerprints, command)
    for name, (parts, compute) in _separate(plan, out).items():
        path = out / f"{name}-{_digest([*parts, fingerprints['emoji-llava']])}.json"
        if name in names and not path.is_file():
            log(f"{name} {plan.n_prompt_images} images" if name == "prompts" else name)
            write_json(path, compute(), indent=None)
        results[name] = json.loads(path.read_text()) if path.is_file() else None
    write_json(out / "results.json", results, indent=None)
    return results


def _separate(plan: Plan, out: Path) -> dict[str, tuple[list[Any], Callable[[], Any]]]:
    """Return by name the experiments that are not variants: what their results depend on, and what computes them."""
    shared = out / "cache" / _data_of(trained(plan, plan.seeds[0]))

    def prompts() -> Any:
        pairs = load_pairs(vk.sample("emoji_pairs"), "test")[: plan.n_prompt_images]
        return study_prompts(vk.load_lvlm("emoji-llava"), pairs, EMOJI_PROMPTS, PRETRAINED_PROMPTS)

    return {
        "prompts": ([plan.n_prompt_images, code_digest(PAPER / "prompts.py")], prompts),
        "context": (
            [asdict(plan), code_digest(PAPER / "context.py")],
            lambda: study_context(plan, shared),
        ),
        "blind": ([code_digest(PAPER / "blind.py")], lambda: blind_baselines(vk.load_lvlm("emoji-llava"))),
    }


def _collect(plan: Plan, out: Path, fingerprints: dict[str, str], command: str) -> dict[str, Any]:
    """Collect the experiments of the plan whose runs are complete."""
    experiments = [experiment(name, plan) for name in EXPERIMENTS]
    paths = {run: _path(out, run, fingerprints) for one in experiments for run in one.runs()}
    complete = [one for one in experiments if all(paths[run].is_file() for run in one.runs())]
    return {
        "command": command,
        "plan": asdict(plan),
        "versions": versions(),
        "fingerprints": fingerprints,
        "experiments": {
            one.name: {
                "variants": [
                    {"name": variant.name, "runs": [paths[run].stem for run in variant.runs]}
                    for variant in one.variants
                ],
                "comparisons": [list(pair) for pair in one.comparisons],
            }
            for one in complete
        },
        "runs": {paths[run].stem: json.loads(paths[run].read_text()) for one in complete for run in one.runs()},
    }


def _title(run: Run) -> str:
    """Describe a run by its model and the settings that differ from the defaults."""
    defaults = asdict(Run())
    changes = [f"{key} {value}" for key, value in asdict(run).items() if value != defaults[key] and key != "model"]
    return ", ".join([run.model, *changes])


def _path(out: Path, run: Run, fingerprints: dict[str, str]) -> Path:
    seed = "frozen" if run.seed is None else f"seed{run.seed}"
    return out / "runs" / f"{run.model}-{seed}-{_digest([asdict(run), fingerprints[run.model]])}.json"


def _data_of(run: Run) -> str:
    """Name the training data of a run: runs on the same pairs share image features and neighbors."""
    return _digest([run.n_scenes, run.n_groups, run.swaps, run.captions, run.hard_negatives])


def _digest(value: Any) -> str:
    return content_key(json.dumps(value, sort_keys=True))[:12]


def _fingerprint(model: str) -> str:
    """Return a digest of a model's weights, the samples' texts and images, the code of a run, and the versions."""
    samples = [vk.sample(name) for name in ("emoji_pairs", "winoground_mini", "sugarcrepe_mini")]
    files = sorted(path for folder in samples for path in folder.rglob("*") if path.is_file())
    contents = [image_key(path) for path in (SHIPPED / model / "model.safetensors", *files)]
    return content_key(json.dumps([contents, code_digest(*CODE_OF_RUNS), versions()]))[:16]
