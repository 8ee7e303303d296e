"""Models put to the test.

What two of them answer to the same prompts, and what each costs on this machine.
"""
