"""The queue may stand on another server than records and logs, so no script has keys of both."""

from tailrace.broker import scripts

_OF_A_REQUEST = {"rec", "log"}


def test_every_script_works_on_one_side() -> None:
    found = [script for script in vars(scripts).values() if isinstance(script, scripts.Script)]
    assert len(found) > 15
    mixed = [script.name for script in found if _OF_A_REQUEST & set(script.keys) and set(script.keys) - _OF_A_REQUEST]
    assert mixed == []
