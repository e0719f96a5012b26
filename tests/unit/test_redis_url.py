"""What a Redis URL says, read."""

import pytest

from tailrace.schemas.redis_url import parse_redis_url


def test_sentinels_are_read_with_what_a_client_needs_beside_them() -> None:
    read = parse_redis_url("redis+sentinel://user:p%40ss@a:1,[::1]:2,c/main/3?socket_timeout=4")
    assert read.sentinels == (("a", 1), ("::1", 2), ("c", 26379))
    assert (read.service, read.plain) == ("main", "redis://user:p%40ss@a:1/3?socket_timeout=4")
    assert read.place == "main of a:1, ::1:2, c:26379"


def test_nodes_of_a_cluster_are_read() -> None:
    read = parse_redis_url("rediss+cluster://user:p,w@a:1,[::1],c:3/0?ssl_ca_certs=/ca")
    assert read.nodes == (("a", 1), ("::1", 6379), ("c", 3))
    assert read.plain == "rediss://user:p,w@a:1?ssl_ca_certs=/ca&ssl_check_hostname=yes"
    assert read.place == "the cluster of a:1, ::1:6379, c:3"


@pytest.mark.parametrize(
    "url", ["redis+cluster://", "redis+cluster://a:0", "redis+cluster://a/1", "redis+cluster://a,"]
)
def test_what_is_no_cluster_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="cluster"):
        parse_redis_url(url)


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("rediss://h", "rediss://h?ssl_check_hostname=yes"),
        ("rediss://h/1?ssl_ca_certs=/ca", "rediss://h/1?ssl_ca_certs=/ca&ssl_check_hostname=yes"),
        ("rediss://h?ssl_check_hostname=no", "rediss://h?ssl_check_hostname=no"),
        ("rediss://h?ssl_cert_reqs=none", "rediss://h?ssl_cert_reqs=none"),
        ("rediss+sentinel://h/m", "rediss://h?ssl_check_hostname=yes"),
        ("redis://h", "redis://h"),
    ],
)
def test_the_name_in_a_certificate_is_checked_unless_told_otherwise(url: str, plain: str) -> None:
    assert parse_redis_url(url).plain == plain


@pytest.mark.parametrize(
    "url",
    ["redis://u:secret@h", "redis+sentinel://u:secret@h,g/m", "redis+cluster://u:secret@h,g", "unix://u:secret@/run/s"],
)
def test_a_place_is_fit_for_messages(url: str) -> None:
    assert "secret" not in parse_redis_url(url).place
