"""A share of the long outage; more of it is a command (store_outage.py)."""

from crash_run import table
from store_outage import StoreOutage


def test_a_store_that_is_away_for_two_hours_of_readings_costs_no_memory_and_no_row(tmp_path):
    figures = StoreOutage(tmp_path, messages=400_000, devices=100, seed=20_261_102).run()
    print(table(figures))
