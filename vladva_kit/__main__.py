"""Run `python -m vladva_kit`, for launchers that start modules: `accelerate launch -m vladva_kit train …`."""

from vladva_kit.cli.app import main

main()
