"""Tokens: they are read as they were granted until they expire, and nothing else is accepted."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.producers.tokens import Grant, TokenSigner
from tailrace.schemas.errors import SettingsError, TokenInvalid

FIRST, SECOND = "the first secret of 32 characters", "the second secret of 32 characters"
GRANT = Grant("request-1", "acme", may_cancel=False, expires_s=1_000)


@given(
    request_id=st.from_regex(r"\A[A-Za-z0-9_-]{1,64}\Z"),
    tenant=st.none() | st.from_regex(r"\A[A-Za-z0-9_.-]{1,64}\Z"),
    may_cancel=st.booleans(),
    expires_s=st.integers(1, 2**40),
)
def test_a_token_is_read_as_it_was_granted(
    request_id: str, tenant: str | None, may_cancel: bool, expires_s: int
) -> None:
    grant = Grant(request_id, tenant, may_cancel, expires_s)
    token = TokenSigner([FIRST]).mint(grant)
    assert TokenSigner([FIRST]).read_token(token, expires_s - 1) == grant
    assert token.replace("-", "").replace("_", "").replace(".", "").isalnum()  # fit for an address as it is


def test_a_token_expires() -> None:
    signer = TokenSigner([FIRST])
    token = signer.mint(GRANT)
    assert signer.read_token(token, 999.9) == GRANT
    with pytest.raises(TokenInvalid, match="expired"):
        signer.read_token(token, 1_000)


def test_secrets_rotate() -> None:
    # given a token of the old secret, if a new one is put first, expect both accepted; if the old one goes, not it
    old = TokenSigner([FIRST]).mint(GRANT)
    rotated = TokenSigner.from_setting(f"{SECOND}, {FIRST}")
    assert rotated is not None
    assert rotated.read_token(old, 0) == GRANT
    assert TokenSigner([SECOND]).read_token(rotated.mint(GRANT), 0) == GRANT
    with pytest.raises(TokenInvalid, match="signature"):
        TokenSigner([SECOND]).read_token(old, 0)


def test_no_changed_token_is_accepted() -> None:
    # given a token, if any one bit of it is another, expect it refused: there is one way only to write a token
    signer = TokenSigner([FIRST])
    token = signer.mint(GRANT)
    for position, bit in product(range(len(token)), range(7)):
        changed = token[:position] + chr(ord(token[position]) ^ (1 << bit)) + token[position + 1 :]
        with pytest.raises(TokenInvalid):
            signer.read_token(changed, 0)


@given(st.text(max_size=200))
def test_no_text_is_accepted_or_repeated(text: str) -> None:
    with pytest.raises(TokenInvalid) as refused:
        TokenSigner([FIRST]).read_token(text, 0)
    assert len(text) < 20 or text not in str(refused.value)


@pytest.mark.parametrize("secrets", [[], ["short"], [FIRST, "short"]])
def test_weak_secrets_are_refused(secrets: list[str]) -> None:
    with pytest.raises(SettingsError, match="TAILRACE_TOKEN_SECRETS") as refused:
        TokenSigner(secrets)
    assert "short" not in str(refused.value)


def test_without_secrets_there_is_no_signer() -> None:
    assert TokenSigner.from_setting(" , ") is None
