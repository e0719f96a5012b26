"""The fault campaign: a plan drawn from a seed runs on real parts, and a pure checker judges the recorded history.

answers.py           the scripted answer of the model's server, its faults, and the end they lead to
plan.py              seed -> requests, readers, cancels and faults, with their times
site.py              the real parts: Valkey, proxies, simulator, worker processes
faults.py            applies the planned faults to the site
clients.py           submits, cancels, reads
driver.py            runs a plan on a site and returns its history
final.py             reads the state at the end
history.py           what happened: submits, cancels, readers, faults, exits, and the state at the end
case.py              the part of a history that is about one request, decoded
reading.py           entries -> the text that a reader has in the end
checker.py           history -> violations; the promises about logs, readers and the whole campaign
outcome_promises.py  the promises about outcomes
summary.py           history -> a few lines for people
"""
