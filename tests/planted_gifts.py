"""A redeemed coupon and a refresh on a planted ledger, by the code that books them."""

from adapters.coupons import NewCoupon, Redeemed, create_coupon, redeem
from adapters.refresh import RefreshRun, refresh_due
from adapters.settings import Settings
from core.coupons import CouponKind
from core.refresh import Terms
from tests.gates import CREDIT, account
from tests.planted_ledger import connect

COUPON_MICRO = 70
ALLOWANCE_MICRO = 50


async def plant_gifts(settings: Settings) -> None:
    """A new account, `gifted`, gets one coupon and one allowance."""
    connection = await connect(settings)
    try:
        await account(connection, "gifted", CREDIT)
        async with connection.transaction():
            await create_coupon(
                connection,
                NewCoupon("PLANTED", CouponKind.FIXED, "tests", amount_micro=COUPON_MICRO),
            )
            given = await redeem(connection, "PLANTED", "gifted", "tests")
            assert isinstance(given, Redeemed)
            await connection.execute(
                "INSERT INTO allowance (account_id, due_at) VALUES ('gifted', now())"
            )
        terms = Terms({"free": ALLOWANCE_MICRO}, rollover_max_micro=0)
        run = RefreshRun(1, "tests", "planted", terms)
        batches = [batch async for batch in refresh_due(connection, run, 10)]
        assert [batch.refreshed for batch in batches] == [1]
    finally:
        await connection.close()
