"""`vladva`, where accelerate is made to shard a model over CPUs: accelerate launch … tests/sharding_on_cpus.py train …

accelerate turns to FSDP only for ranks that are on accelerators, and else to DDP without a word. Here it is told that
these are; all that follows, from its preparing of the model to the saving, is its own code and the kit's, over gloo.
"""

from __future__ import annotations

import torch
from accelerate.state import DistributedType, PartialState

plain = PartialState.__init__


def as_if_on_accelerators(self, *arguments, **keywords):
    plain(self, *arguments, **keywords)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_XPU


if __name__ == "__main__":
    PartialState.__init__ = as_if_on_accelerators
    from vladva_kit.cli.app import main

    try:
        main()
    finally:
        if torch.distributed.is_initialized():  # else gloo's threads are cut off where Python ends: at times an abort
            torch.distributed.destroy_process_group()
