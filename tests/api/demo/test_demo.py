"""The demo as a real process: it shows the loop, rolls back, cleans up; and wrong files are told in one sentence."""
