"""What is tried: experiments of rows, rows of cells, a cell being one training from one seed and all that is judged."""

from __future__ import annotations

from dataclasses import dataclass, replace

LONG = "contrastive on long captions"
BASE, SOFT, LORA, BOTH, FULL = "base", "+ soft prompt", "+ LoRA", "+ both", "+ both + next-token"
CLIP, CLIP_ON = "emoji-clip", "emoji-clip, trained on"
BATCH_SIZES = (16, 64, 256, 1024)


@dataclass(frozen=True)
class Plan:
    """How long each cell trains and how much of it is judged: the components took 41 minutes on 2 cores.

    They are 18 trainings and 2 frozen models; the lines are 18 trainings more, and then there are the prompts.
    Retrieval, Winoground and SugarCrepe are judged on all of the samples' cases; frozen models once.
    """

    steps: int = 80
    batch_size: int = 64
    learning_rate: float = 5e-4
    clip_learning_rate: float = 1e-4
    seeds: tuple[int, ...] = (0, 1, 2)  # of the components' rows
    line_seeds: tuple[int, ...] = (0,)  # of the other experiments' rows
    talks_about: int = 100  # pictures a style that are asked about
    reads: int = 200  # pictures and captions whose summary tokens are read
    prompt_pictures: int = 300  # in the prompt study's gallery


@dataclass(frozen=True)
class Cell:
    """One model from one seed. Equal cells are one cell, whichever experiments they stand in."""

    model: str = "emoji-llava"
    seed: int | None = None  # None: nothing is trained
    soft_prompt: bool = False
    lora_rank: int = 0  # 0: no LoRA
    next_token_weight: float = 0.0
    temperature: float = 0.07
    learn_temperature: bool = True
    captions: str = "short"  # what the contrastive loss is given: "short" or "long"
    negatives: bool = False  # captions with two words exchanged as hard negatives
    pairs: int | None = None  # the first so many pairs; None: all
    steps: int = 0
    batch_size: int = 0
    learning_rate: float = 0.0
    talks_about: int = 0  # pictures a style that it is asked about
    adapter_off: bool = False  # whether it is asked with the adapter off as well
    reads: int = 0  # pictures and captions whose summary tokens are read


@dataclass(frozen=True)
class Row:
    """A line of a table: the same model from several seeds."""

    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Experiment:
    """Rows, and which of them are held against each other."""

    name: str
    rows: tuple[Row, ...]
    compared: tuple[tuple[str, str], ...]

    def cells(self) -> list[Cell]:
        """All cells, each once, in the order of the rows."""
        return list(dict.fromkeys(cell for row in self.rows for cell in row.cells))


def experiment(name: str, plan: Plan = Plan()) -> Experiment:  # noqa: B008  frozen
    """The rows of an experiment: `experiment("components").rows[0].name == "emoji-clip"`.

    Raises ValueError for a name that is not one of EXPERIMENTS.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"no experiment is called '{name}': {', '.join(EXPERIMENTS)}")
    rows = EXPERIMENTS[name](plan)
    names = [row.name for row in rows]
    compared = tuple(zip(names, names[1:], strict=False))
    if name in ("components", "generation"):
        compared = tuple(pair for pair in _COMPARED if set(pair) <= set(names))
    return Experiment(name, tuple(rows), compared)


_COMPARED = (
    (CLIP, CLIP_ON), (BASE, SOFT), (SOFT, LORA), (LORA, BOTH), (BOTH, FULL), (BASE, FULL), (BOTH, LONG), (BASE, LONG),
    (CLIP_ON, FULL),
)  # fmt: skip


def _trained(plan: Plan, seed: int, **changes: object) -> Cell:
    """The components' fullest row, with changes."""
    full = Cell(
        seed=seed, soft_prompt=True, lora_rank=16, next_token_weight=1.0, steps=plan.steps, batch_size=plan.batch_size,
        learning_rate=plan.learning_rate, talks_about=plan.talks_about, reads=plan.reads,
    )  # fmt: skip
    return replace(full, **changes)


def _full(plan: Plan, seed: int) -> Cell:
    return _trained(plan, seed, adapter_off=True)


def _base(plan: Plan) -> Row:
    return Row(BASE, (Cell(talks_about=plan.talks_about, reads=plan.reads),))


def _components(plan: Plan) -> list[Row]:
    def row(name: str, **changes: object) -> Row:
        return Row(name, tuple(_trained(plan, seed, **changes) for seed in plan.seeds))

    clip_on = Cell(
        CLIP, steps=plan.steps, batch_size=plan.batch_size, learning_rate=plan.clip_learning_rate
    )  # as many pairs as the fine-tune sees
    return [
        Row(CLIP, (Cell(CLIP),)),
        Row(CLIP_ON, tuple(replace(clip_on, seed=seed) for seed in plan.seeds)),
        _base(plan),
        row(SOFT, lora_rank=0, next_token_weight=0.0),
        row(LORA, soft_prompt=False, next_token_weight=0.0),
        row(BOTH, next_token_weight=0.0),
        row(FULL, adapter_off=True),
        row(LONG, next_token_weight=0.0, captions="long"),
    ]


def _generation(plan: Plan) -> list[Row]:
    return [row for row in _components(plan) if row.name in (BASE, BOTH, FULL, LONG)]


def _line(plan: Plan, levels: dict[str, dict[str, object]]) -> list[Row]:
    """Rows that differ from the fullest one in what each level says; nothing: that row itself."""
    rows = []
    for name, changes in levels.items():
        quiet = {"talks_about": 0, "reads": 0, **changes}
        cells = (_trained(plan, seed, **quiet) if changes else _full(plan, seed) for seed in plan.line_seeds)
        rows.append(Row(name, tuple(cells)))
    return rows


def _batch_size(plan: Plan) -> list[Row]:
    """As many pairs in all, in larger and fewer batches; the plan's own batch size is the components' row."""
    seen = plan.steps * plan.batch_size
    sizes = sorted({*BATCH_SIZES, plan.batch_size})
    return _line(plan, {
        f"batch {size}": {} if size == plan.batch_size else {"batch_size": size, "steps": max(1, seen // size)}
        for size in sizes
    })  # fmt: skip


def _data_size(plan: Plan) -> list[Row]:
    return _line(plan, {"150 pairs": {"pairs": 150}, "600 pairs": {"pairs": 600}, "all pairs": {}})


def _rank(plan: Plan) -> list[Row]:
    return _line(plan, {f"rank {rank}": {} if rank == 16 else {"lora_rank": rank} for rank in (1, 4, 16, 64)})


def _temperature(plan: Plan) -> list[Row]:
    fixed = {f"fixed {value}": {"temperature": value, "learn_temperature": False} for value in (0.02, 0.05, 0.07)}
    return _line(plan, {**fixed, "learned from 0.07": {}})


def _next_token_weight(plan: Plan) -> list[Row]:
    def talks(weight: float) -> dict[str, object]:
        return {"next_token_weight": weight, "talks_about": plan.talks_about, "reads": plan.reads}

    return _line(plan, {f"weight {weight:g}": {} if weight == 1 else talks(weight) for weight in (0.0, 0.3, 1.0, 3.0)})


def _soft_prompt_rate(plan: Plan) -> list[Row]:
    """The soft prompt alone: its rows are few and lie far apart, so LoRA's learning rate may hardly move them."""
    alone: dict[str, object] = {"lora_rank": 0, "next_token_weight": 0.0}
    untold = {"talks_about": plan.talks_about, "reads": plan.reads}  # the plan's own rate is the components' row
    rates = {f"rate {rate:g}": {**alone, **untold, "learning_rate": rate} for rate in _rates(plan)}
    return [Row(BASE, (Cell(**untold),)), *_line(plan, rates)]


def _collapse(plan: Plan) -> list[Row]:
    """The counter-example for as long as a collapse takes: two and a half times the components' steps."""
    longer: dict[str, object] = {"next_token_weight": 0.0, "steps": 5 * plan.steps // 2}
    return _line(plan, {"short captions": longer, "long captions": {**longer, "captions": "long"}})


def _rates(plan: Plan) -> list[float]:
    return [plan.learning_rate * times for times in (1, 10, 100)]


def _negatives(plan: Plan) -> list[Row]:
    return _line(plan, {"without": {}, "with swapped captions": {"negatives": True}})


EXPERIMENTS = {
    "components": _components,
    "generation": _generation,
    "batch-size": _batch_size,
    "data-size": _data_size,
    "rank": _rank,
    "temperature": _temperature,
    "next-token-weight": _next_token_weight,
    "negatives": _negatives,
    "soft-prompt-rate": _soft_prompt_rate,
    "collapse": _collapse,
}
