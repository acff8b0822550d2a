"""The memory budget: accounts, shares, and what counts for which limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from netstore.limits import LARGEST_DEFAULT, SMALLEST, Budget, Shares, default_budget

if TYPE_CHECKING:
    from netstore.limits import Account


def test_what_a_share_holds_counts_in_the_whole() -> None:
    whole = Budget(100)
    clients, peers = whole.share(80), whole.share(80)
    clients.account().charge(60)
    assert not clients.over
    peers.account().charge(50)
    assert whole.used == 110
    assert whole.over
    assert clients.over, "a share is over when the whole is"


def test_a_share_is_spent_only_by_its_own_bytes() -> None:
    whole = Budget(100)
    clients, peers = whole.share(80).account(), whole.share(80).account()
    peers.charge(101)
    clients.charge(80)
    assert (clients.over, clients.spent, peers.spent) == (True, False, True)


def test_a_closed_account_frees_everything_and_ignores_charges() -> None:
    budget = Budget(10)
    account = budget.account()
    account.charge(25)
    assert account.over
    account.close()
    account.close()
    account.charge(7)
    account.release(3)
    assert (account.held, budget.used, budget.over) == (0, 0, False)


def test_the_figures_of_a_closed_account_stay_0() -> None:
    budget = Budget(10)
    account = budget.account()
    account.charge(3, 2)
    account.promise(7, 7)
    account.close()
    account.charge(1, 1)
    account.promise(-7, -7)
    assert (account.held, account.lasting, account.promised, account.coming) == (0, 0, 0, 0)
    assert (budget.used, budget.promised) == (0, 0)


def test_promised_bytes_do_not_count_for_over() -> None:
    """Those who hold the rest could free nothing of them."""
    whole = Budget(100)
    budget = whole.share(50)
    sender, reader = budget.account(), budget.account()
    sender.promise(200, 200)
    assert (budget.used, whole.used, reader.over) == (200, 200, False)
    reader.charge(51)
    assert reader.over
    sender.promise(-200, -200)
    assert (budget.used, whole.used, whole.promised) == (51, 51, 0)


def test_moved_is_called_after_each_charge_until_the_account_is_closed() -> None:
    told = []
    account = Budget(10).account(lambda: told.append(account.held))
    account.charge(5)
    account.hold(9)
    account.release(9)
    account.promise(8, 8)
    assert told == [5, 9, 0]
    account.close()
    account.charge(1)
    assert told == [5, 9, 0]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1000), st.booleans())))
def test_used_is_the_sum_of_what_open_accounts_hold(steps: list[tuple[int, int, bool]]) -> None:
    budget = Budget(1 << 20)
    accounts: list[Account] = [budget.account() for _ in range(4)]
    held = [0] * 4
    is_open = [True] * 4
    for number, size, close in steps:
        if close:
            accounts[number].close()
            held[number], is_open[number] = 0, False
        else:
            accounts[number].charge(size)
            held[number] += size * is_open[number]
    assert budget.used == sum(held)


def test_the_shares_add_up_to_no_more_than_the_whole() -> None:
    shares = Shares.of(SMALLEST)
    parts = [
        shares.clients,
        shares.peers,
        shares.overlay,
        shares.log,
        shares.copies,
        shares.reads,
        shares.walks,
    ]
    assert all(part.parent is shares.whole for part in parts)
    assert sum(part.limit for part in parts) <= shares.whole.limit
    for part in parts:
        part.account().charge(part.limit)
    assert not any(part.over for part in parts)


def test_the_default_budget_is_between_two_bounds() -> None:
    assert default_budget(1 << 20) == SMALLEST
    assert default_budget(2 << 30) == 256 << 20
    assert default_budget(1 << 40) == LARGEST_DEFAULT
