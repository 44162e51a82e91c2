"""The study's experiments: each compares variants of a model, and each variant is one run per random seed."""

from __future__ import annotations

from dataclasses import dataclass, replace

LONG = "contrastive on long captions"
BASE, SOFT, LORA, BOTH, FULL = "base", "+ soft prompt", "+ LoRA", "+ both", "+ both + next-token"
CLIP, CLIP_TUNED = "emoji-clip", "emoji-clip, fine-tuned"
BATCH_SIZES = (16, 64, 256, 1024)
N_EQUALITY_IMAGES = 8  # test images on which the base and the model with its adapter off must agree bit for bit


@dataclass(frozen=True)
class Plan:
    """Training length and evaluation sizes of every run.

    `components` is 18 trainings and 2 frozen models: 41 minutes on 2 cores. The other experiments add 18 trainings.
    Retrieval, Winoground and SugarCrepe always use all cases of the samples.
    """

    steps: int = 80
    batch_size: int = 64
    learning_rate: float = 5e-4
    clip_learning_rate: float = 1e-4
    seeds: tuple[int, ...] = (0, 1, 2)  # of `components` and `generation`
    sweep_seeds: tuple[int, ...] = (0,)  # of all other experiments
    n_generation_images: int = 100  # per style, for questions and captions
    n_probe_images: int = 200  # images and captions whose summary tokens are probed
    n_prompt_images: int = 300  # in the prompt study


@dataclass(frozen=True)
class Run:
    """One model and one seed. Experiments that contain an equal run share it."""

    model: str = "emoji-llava"
    seed: int | None = None  # None: not trained
    soft_prompt: bool = False
    lora_rank: int = 0  # 0: no LoRA
    next_token_weight: float = 0.0
    temperature: float = 0.07
    learn_temperature: bool = True
    captions: str = "short"  # captions of the contrastive loss: "short" or "long"
    hard_negatives: bool = False  # add captions with two words swapped as negatives
    n_pairs: int | None = None  # train on the first n pairs; None: all
    steps: int = 0
    batch_size: int = 0
    learning_rate: float = 0.0
    n_generation_images: int = 0  # per style; 0: generation is not evaluated
    generate_adapter_off: bool = False  # also evaluate generation with the adapter off
    n_probe_images: int = 0  # 0: representations are not probed


@dataclass(frozen=True)
class Variant:
    """A row of a table: one model, trained with several seeds."""

    name: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Experiment:
    """Variants, and the pairs of them that are compared case by case."""

    name: str
    variants: tuple[Variant, ...]
    comparisons: tuple[tuple[str, str], ...]

    def runs(self) -> list[Run]:
        """All runs without duplicates, in the order of the variants."""
        return list(dict.fromkeys(run for variant in self.variants for run in variant.runs))


def experiment(name: str, plan: Plan = Plan()) -> Experiment:  # noqa: B008  frozen
    """Return an experiment by name: `experiment("components").variants[0].name == "emoji-clip"`.

    Raises ValueError for a name that is not in EXPERIMENTS.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"unknown experiment '{name}': choose one of {', '.join(EXPERIMENTS)}")
    if name in ("components", "generation"):
        variants = [variant for variant in _components(plan) if name == "components" or variant.name in _GENERATION]
        names = {variant.name for variant in variants}
        return Experiment(name, tuple(variants), tuple(pair for pair in _COMPARISONS if names.issuperset(pair)))
    sweep = [Variant(level, _sweep_runs(plan, changes)) for level, changes in _sweeps(plan)[name].items()]
    variants = [_base(plan), *sweep] if name == "soft-prompt-rate" else sweep
    names = [variant.name for variant in variants]
    return Experiment(name, tuple(variants), tuple(zip(names, names[1:], strict=False)))


_GENERATION = (BASE, BOTH, FULL, LONG)
_COMPARISONS = (
    (CLIP, CLIP_TUNED), (BASE, SOFT), (SOFT, LORA), (LORA, BOTH), (BOTH, FULL), (BASE, FULL), (BOTH, LONG),
    (BASE, LONG), (CLIP_TUNED, FULL),
)  # fmt: skip


def _trained(plan: Plan, seed: int, **changes: object) -> Run:
    """A run of the full method, with changes."""
    full = Run(
        seed=seed, soft_prompt=True, lora_rank=16, next_token_weight=1.0, steps=plan.steps, batch_size=plan.batch_size,
        learning_rate=plan.learning_rate, n_generation_images=plan.n_generation_images,
        n_probe_images=plan.n_probe_images,
    )  # fmt: skip
    return replace(full, **changes)


def _base(plan: Plan) -> Variant:
    run = Run(n_generation_images=plan.n_generation_images, n_probe_images=plan.n_probe_images)
    return Variant(BASE, (run,))


def _components(plan: Plan) -> list[Variant]:
    def variant(name: str, **changes: object) -> Variant:
        return Variant(name, tuple(_trained(plan, seed, **changes) for seed in plan.seeds))

    # The CLIP baseline sees as many pairs as the fine-tuned LVLM.
    clip = Run(CLIP, steps=plan.steps, batch_size=plan.batch_size, learning_rate=plan.clip_learning_rate)
    return [
        Variant(CLIP, (Run(CLIP),)),
        Variant(CLIP_TUNED, tuple(replace(clip, seed=seed) for seed in plan.seeds)),
        _base(plan),
        variant(SOFT, lora_rank=0, next_token_weight=0.0),
        variant(LORA, soft_prompt=False, next_token_weight=0.0),
        variant(BOTH, next_token_weight=0.0),
        variant(FULL, generate_adapter_off=True),
        variant(LONG, next_token_weight=0.0, captions="long"),
    ]


def _sweep_runs(plan: Plan, changes: dict[str, object]) -> tuple[Run, ...]:
    """Runs with these changes to the full method. Without changes, they are the runs of `components`."""
    cheaper = {"n_generation_images": 0, "n_probe_images": 0, **changes} if changes else {"generate_adapter_off": True}
    return tuple(_trained(plan, seed, **cheaper) for seed in plan.sweep_seeds)


def _sweeps(plan: Plan) -> dict[str, dict[str, dict[str, object]]]:
    """Return the levels of each sweep, as changes to the full method; {} is the full method itself."""
    sizes = {"n_generation_images": plan.n_generation_images, "n_probe_images": plan.n_probe_images}
    soft_prompt = {"lora_rank": 0, "next_token_weight": 0.0, **sizes}
    longer = {"next_token_weight": 0.0, "steps": 5 * plan.steps // 2}
    seen = plan.steps * plan.batch_size
    return {
        "batch-size": {  # at equal pairs seen, so larger batches take fewer steps
            f"batch {n}": {} if n == plan.batch_size else {"batch_size": n, "steps": max(1, seen // n)}
            for n in sorted({*BATCH_SIZES, plan.batch_size})
        },
        "data-size": {"150 pairs": {"n_pairs": 150}, "600 pairs": {"n_pairs": 600}, "all pairs": {}},
        "rank": {f"rank {rank}": {} if rank == 16 else {"lora_rank": rank} for rank in (1, 4, 16, 64)},
        "temperature": {
            **{f"fixed {value}": {"temperature": value, "learn_temperature": False} for value in (0.02, 0.05, 0.07)},
            "learned from 0.07": {},
        },
        "next-token-weight": {
            f"weight {weight:g}": {} if weight == 1 else {"next_token_weight": weight, **sizes}
            for weight in (0.0, 0.3, 1.0, 3.0)
        },
        "negatives": {"random negatives": {}, "+ swapped captions": {"hard_negatives": True}},
        "soft-prompt-rate": {  # without LoRA, whose learning rate may be too low for a soft prompt
            f"learning rate {rate:g}": {**soft_prompt, "learning_rate": rate}
            for rate in (plan.learning_rate, 10 * plan.learning_rate, 100 * plan.learning_rate)
        },
        "collapse": {"short captions": longer, "long captions": {**longer, "captions": "long"}},
    }


EXPERIMENTS = ("components", "generation", *_sweeps(Plan()))
