"""Real data, if it is there: see itu_energy.py."""

import os
from pathlib import Path

import pytest

import itu_energy
from harness import REPO

DATA = Path(os.environ.get("SITEPULSE_ITU_DATA", REPO.parent / "shared" / "data" / "itu-5g-energy"))


@pytest.mark.skipif(not (DATA / "energy.csv").exists(), reason=f"no ITU energy data in {DATA}; set SITEPULSE_ITU_DATA")
def test_shuffled_repeated_and_killed_the_real_data_sums_as_in_the_file(tmp_path):
    itu_energy.run(DATA, tmp_path)
