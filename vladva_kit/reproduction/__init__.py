"""From the results of `vladva ablate` to a page: claims with verdicts, a figure each, and the tables they rest on."""

from vladva_kit.reproduction.claims import CLAIMS, Claim, Found
from vladva_kit.reproduction.figures import claim_figures
from vladva_kit.reproduction.page import reproduction_page, write_reproduction

__all__ = ["CLAIMS", "Claim", "Found", "claim_figures", "reproduction_page", "write_reproduction"]
