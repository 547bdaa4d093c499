"""A short crash run; the long one is a command (crash_run.py)."""

from crash_run import CrashRun, Plan, table


def test_killed_at_random_moments_it_has_every_message_once(tmp_path):
    figures = CrashRun(tmp_path, Plan(kills=40, broker_restarts=4, seed=20_261_101)).run()
    print(table(figures))
