"""What differs between LVLM families, as frozen records; everything else is transformers' own."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """One family of LVLMs, by its `model_type`."""

    model_type: str
    tested: bool = False  # whether this version holds it to the tests of the towers
    note: str = ""


FAMILIES = {
    "llava": Family("llava", tested=True),
}


def family_of(model_type: str) -> Family:
    """The record of a family; one that is not known gets the general path and is marked as untested.

    family_of("llava").tested    # True
    """
    note = "there is no record of it: the general path is used, and nothing here has tested it"
    return FAMILIES.get(model_type, Family(model_type, note=note))
