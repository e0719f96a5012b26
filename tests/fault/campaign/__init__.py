"""The fault campaign: a plan drawn from a seed, run on real parts, recorded, and judged by a pure checker.

answers.py  what the model's server is told to say and to do wrong, and what a request must come to by it
plan.py     seed -> requests, readers, cancels, faults, with their times
history.py  what happened: submits, cancels, readers, faults, exits, and how things stood at the end
site.py     the real parts: Valkey, proxies, simulator, worker processes
faults.py   does to the site what the plan says
clients.py  submits, cancels, reads
driver.py   runs a plan on a site and hands back its history
final.py    reads how things stand at the end
checker.py  history -> violations; figures.py: history -> figures
"""
