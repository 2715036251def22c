"""Waiting for something, but not for ever."""

import time


def until(holds, within=20.0):
    """What `holds` answers once that is true of anything."""
    ends = time.monotonic() + within
    while True:
        seen = holds()
        if seen:
            return seen
        assert time.monotonic() < ends, f"not within {within} s"
        time.sleep(0.02)
