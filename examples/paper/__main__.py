"""Run the scripts, or those named by their letters, and write the table into README.md.

python -m examples.paper [a b ...]
"""

from __future__ import annotations

import argparse
import importlib

import torch

from .report import FOLDER, run

SCRIPTS = (
    "a_definiteness", "b_spectra", "c_frequencies", "d_movement",
    "e_kernel_limit", "f_trajectory", "g_training", "h_gauss_newton",
)  # fmt: skip
PAGE = FOLDER / "README.md"
START, END = "<!-- table -->", "<!-- end of table -->"


def replaced(page: str, letter: str, section: str) -> str:
    """The page with the section of one script put in the place of the one before."""
    before, rest = page.split(START)
    table, after = rest.split(END)
    # Each section begins with "### (letter)".
    parts = {part[0]: f"### ({part}" for part in table.split("### (")[1:]}
    parts[letter] = section
    table = "\n".join(parts[name].strip() + "\n" for name in sorted(parts))
    return f"{before}{START}\n\n{table}\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    letters = [name[0] for name in SCRIPTS]
    parser.add_argument("letters", nargs="*", default=letters, help="which scripts; all if none")
    chosen = parser.parse_args().letters
    if unknown := set(chosen) - set(letters):
        parser.error(f"no script {', '.join(sorted(unknown))}: choose from {' '.join(letters)}")
    torch.set_num_threads(min(2, torch.get_num_threads()))
    for name in SCRIPTS:
        if name[0] in chosen:
            script = importlib.import_module(f".{name}", __package__)
            section = run(name, script.TITLE, script.measure)
            PAGE.write_text(replaced(PAGE.read_text(), name[0], section))
    print(f"table: {PAGE}")


if __name__ == "__main__":
    main()
