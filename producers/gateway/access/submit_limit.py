"""How often a tenant may submit: a token bucket for each tenant. Pure; the time is an argument."""


class SubmitLimit:
    """Limits submits per tenant. A bucket holds one minute's worth and refills evenly.

    Args:
        per_minute: submits for each tenant; 0 for no limit.
    """

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._buckets: dict[str | None, tuple[float, float]] = {}

    def take_submit(self, tenant: str | None, now_s: float) -> float:
        """Takes one submit from the tenant's bucket.

        Args:
            tenant: the tenant.
            now_s: seconds of a monotonic clock.

        Returns:
            0 when the submit is allowed, otherwise the seconds until the next one will be.
        """
        if not self._per_minute:
            return 0.0
        left, at_s = self._buckets.get(tenant, (float(self._per_minute), now_s))
        left = min(float(self._per_minute), left + (now_s - at_s) * self._per_minute / 60)
        if left < 1:
            self._buckets[tenant] = (left, now_s)
            return (1 - left) * 60 / self._per_minute
        self._buckets[tenant] = (left - 1, now_s)
        return 0.0
