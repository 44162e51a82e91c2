"""Run `vladva` with accelerate's FSDP over CPUs: accelerate launch … tests/sharding_on_cpus.py train …

accelerate shards only on accelerators and silently falls back to DDP on CPUs. Here it takes CPU ranks for accelerators;
everything else, from preparing the model to saving it, is its own code and the kit's, over gloo.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate.state import DistributedType, PartialState

original_init = PartialState.__init__


def init_as_on_accelerators(self: PartialState, *arguments: Any, **keywords: Any) -> None:
    original_init(self, *arguments, **keywords)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_XPU


if __name__ == "__main__":
    PartialState.__init__ = init_as_on_accelerators
    from vladva_kit.cli.app import main

    try:
        main()
    finally:
        if torch.distributed.is_initialized():  # otherwise Python may abort at exit while gloo's threads still run
            torch.distributed.destroy_process_group()
