"""Whose requests a run sends: which table is meant, which of several values holds, which key goes where."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from batchrunner.account import Account, Asked, choose, settle, with_keys
from batchrunner.account_table import KeySource, Table
from batchrunner.errors import UsageError
from batchrunner.secret import Secret

PLATFORM, OTHER = "https://api.empiriolabs.ai", "https://api.example.com"
ENV, FILE = KeySource("env", "PROD_KEY"), KeySource("file", "prod.key")
OWN = KeySource("env", "EMPIRIOLABS_API_KEY")
FIRST, SECOND, THIRD = (f"sk-empiriolabs-test-{which}" for which in ("first", "second", "third"))
PROD = Table(file="batchrun.toml", name="prod", base_url=OTHER, rpm=7, keys=(ENV,))
DEV = Table(file="own.toml", name="dev")
ONE, TWO = {"prod": PROD}, {"prod": PROD, "dev": DEV}


def asked(*by_hand: str, **given: Any) -> Asked:
    """What options say; those in `by_hand` on the command line or in the environment."""
    return Asked(**given, by_hand=frozenset(by_hand))


def keyed(table: Table | None, environment: Mapping[str, str] = {}, files: Mapping[KeySource, str] = {}, **given: Any) -> Account:
    options = asked(*given, **given)
    return with_keys(settle(options, table), table, environment, files)


def refusal(*arguments: Any, **given: Any) -> str:
    with pytest.raises(UsageError) as refused:
        keyed(*arguments, **given)
    return str(refused.value)


class TestChoice:
    @pytest.mark.parametrize(
        ("tables", "options", "expected"),
        [
            ({}, asked(), None),
            ({}, asked("account", account="prod"), None),
            (ONE, asked(), PROD),
            (ONE, asked("account", account="prod"), PROD),
            (ONE, asked(base_url=OTHER), PROD),
            (ONE, asked("base_url", base_url=OTHER), None),
            (ONE, asked("base_url", "account", base_url=OTHER, account="prod"), PROD),
            (ONE, asked("rpm", rpm=1), PROD),
            (TWO, asked("account", account="dev"), DEV),
            (TWO, asked(account="dev"), DEV),
            (TWO, asked("base_url", base_url=OTHER), None),
        ],
    )
    def test_which_table_is_meant(self, tables: dict[str, Table], options: Asked, expected: Table | None) -> None:
        """The one that is named, else the only one, else none where a base URL is given by hand."""
        assert choose(tables, options) == expected

    def test_several_are_named_with_their_files(self) -> None:
        with pytest.raises(UsageError, match=re.escape("prod (batchrun.toml), dev (own.toml). Choose one with --account NAME")):
            choose(TWO, asked())

    @pytest.mark.parametrize("options", [asked(account="pord"), asked("base_url", account="pord", base_url=OTHER)])
    def test_a_name_that_is_none_of_them_is_refused(self, options: Asked) -> None:
        with pytest.raises(UsageError, match=re.escape("--account pord: there is no such account. Configured are prod (batch")):
            choose(ONE, options)

    @pytest.mark.parametrize("tables", [{}, ONE])
    def test_a_key_for_a_name_is_refused_unshown(self, tables: dict[str, Table]) -> None:
        """Names stand in run.json and in metrics."""
        with pytest.raises(UsageError) as refused:
            choose(tables, asked(account=FIRST))
        assert FIRST not in str(refused.value)

    def test_without_tables_a_name_is_an_alias(self) -> None:
        """For metrics and for the lines that ask for it."""
        assert settle(asked(account="a team's"), None) == Account(name="a team's")


@pytest.mark.parametrize("in_table", [None, 2])
@pytest.mark.parametrize("by_hand", [True, False])
@pytest.mark.parametrize("name", ["rpm", "tpm"])
def test_limits_come_from_the_first_that_has_them(name: str, by_hand: bool, in_table: int | None) -> None:
    """By hand, then the table, then what the files' top level or the default say."""
    table = msgspec.structs.replace(DEV, **{name: in_table})
    account = settle(asked(*([name] if by_hand else []), **{name: 1}), table)
    assert getattr(account, name) == (1 if by_hand or in_table is None else 2)


def test_no_limit_is_a_limit() -> None:
    """0 in a table means none, and not that the table says nothing."""
    assert settle(asked(rpm=50), msgspec.structs.replace(DEV, rpm=0)).rpm == 0


def test_what_only_a_table_has() -> None:
    table = msgspec.structs.replace(DEV, auth="x-api-key", headers=(("a", "b"),))
    account = settle(asked(), table)
    assert (account.name, account.base_url, account.auth, account.headers) == ("dev", PLATFORM, "x-api-key", (("a", "b"),))
    assert settle(asked(), DEV).auth == "bearer"


class TestKeys:
    def test_all_sources_in_their_order_each_key_once(self) -> None:
        """Commas in a variable, lines in a file; blanks and empty parts are no keys."""
        table = msgspec.structs.replace(PROD, keys=(FILE, ENV))
        account = keyed(table, {"PROD_KEY": f" {FIRST} ,,{SECOND}"}, {FILE: f"\n{THIRD}\r\n{FIRST}\n\n"})
        assert account.keys == (Secret(THIRD), Secret(FIRST), Secret(SECOND))
        assert account.key_sources == ((FILE, 2), (ENV, 2))

    def test_a_table_with_keys_does_not_look_at_the_usual_variables(self) -> None:
        assert keyed(PROD, {"PROD_KEY": FIRST, "BATCHRUN_API_KEY": SECOND}).keys == (Secret(FIRST),)

    @pytest.mark.parametrize("table", [None, DEV])
    def test_without_keys_in_a_table_the_usual_variables_hold(self, table: Table | None) -> None:
        account = keyed(table, {"EMPIRIOLABS_API_KEY": f"{FIRST},{SECOND}"})
        assert account.keys == (Secret(FIRST), Secret(SECOND))
        assert account.key_sources == ((OWN, 2),)

    @pytest.mark.parametrize("environment", [{}, {"PROD_KEY": ""}, {"PROD_KEY": " , "}, {"BATCHRUN_API_KEY": FIRST}])
    def test_a_variable_without_a_key_is_refused(self, environment: dict[str, str]) -> None:
        """Also where others have keys: a standby that is not there is found at the start, not at night."""
        message = refusal(PROD, environment)
        assert message.startswith("batchrun.toml: [accounts.prod]: keys: env:PROD_KEY: the variable is not set, or is empty.")

    def test_a_file_without_a_key_is_refused(self) -> None:
        message = refusal(msgspec.structs.replace(PROD, keys=(FILE,)), {}, {FILE: "\n \n"})
        assert message.startswith("batchrun.toml: [accounts.prod]: keys: file:prod.key: the file has no key in it.")

    @pytest.mark.parametrize("key", [f"{FIRST}\x00", f"{FIRST}é", f"\ufeff{FIRST}", f"{FIRST}\tx"])
    @pytest.mark.parametrize("source", [ENV, FILE])
    def test_what_no_key_holds_is_refused_unshown(self, source: KeySource, key: str) -> None:
        table = msgspec.structs.replace(PROD, keys=(source,))
        message = refusal(table, {"PROD_KEY": key}, {FILE: key})
        assert message.startswith(f"batchrun.toml: [accounts.prod]: keys: {source} holds what no key holds")
        assert FIRST not in message

    @pytest.mark.parametrize("base_url", [PLATFORM, "https://eu.empiriolabs.ai", "http://localhost:1", "http://[::1]"])
    def test_the_platforms_key_goes_home_also_from_a_table(self, base_url: str) -> None:
        table = msgspec.structs.replace(PROD, keys=(OWN,), base_url=base_url)
        assert keyed(table, {"EMPIRIOLABS_API_KEY": FIRST}).keys == (Secret(FIRST),)

    @pytest.mark.parametrize("base_url", [OTHER, "https://empiriolabs.ai.example.com", "https://notempiriolabs.ai"])
    def test_the_platforms_key_goes_nowhere_else_from_a_table_either(self, base_url: str) -> None:
        table = msgspec.structs.replace(PROD, keys=(OWN,), base_url=base_url)
        message = refusal(table, {"EMPIRIOLABS_API_KEY": FIRST})
        assert message.startswith("batchrun.toml: [accounts.prod]: keys: env:EMPIRIOLABS_API_KEY is not sent to ")
        assert FIRST not in message

    def test_a_tables_keys_go_to_its_own_server_alone(self) -> None:
        """Another base URL, given by hand, is another company's perhaps."""
        message = refusal(PROD, {"PROD_KEY": FIRST}, base_url="https://api.example.org")
        assert message.startswith(
            "batchrun.toml: [accounts.prod]: keys are for api.example.com, and are not sent to api.example.org"
        )

    @pytest.mark.parametrize("base_url", ["https://api.example.com:8443/v2", "http://127.0.0.1:8000", "http://localhost"])
    def test_a_tables_keys_go_to_its_host_and_to_loopback(self, base_url: str) -> None:
        """Another path or port of the same host, and a rehearsal on this machine."""
        assert keyed(PROD, {"PROD_KEY": FIRST}, base_url=base_url).keys == (Secret(FIRST),)

    def test_keys_of_a_table_without_a_server_go_where_they_are_told(self) -> None:
        table = msgspec.structs.replace(DEV, keys=(ENV,))
        assert keyed(table, {"PROD_KEY": FIRST}, base_url=OTHER).keys == (Secret(FIRST),)


class TestIdentity:
    @pytest.mark.parametrize(
        ("account", "expected"),
        [
            (Account(name="prod", base_url=PLATFORM), "api.empiriolabs.ai/prod"),
            (Account(name="prod", base_url="https://API.EmpirioLabs.ai:443/v1"), "api.empiriolabs.ai/prod"),
            (Account(name="prod", base_url="http://localhost:8000"), "localhost:8000/prod"),
            (Account(name="prod", base_url="http://[::1]:8000"), "[::1]:8000/prod"),
            (Account(base_url="http://localhost"), "localhost"),
        ],
    )
    def test_host_and_name(self, account: Account, expected: str) -> None:
        assert account.identity == expected

    def test_a_name_survives_its_keys(self) -> None:
        """Keys come and go; the account's limits and books stay."""
        one, other = (Account(name="prod", keys=(Secret(key),)).identity for key in (FIRST, SECOND))
        assert one == other

    def test_without_a_name_the_first_key_tells_accounts_apart(self) -> None:
        """The same for every process and machine; the keys that stand by do not matter."""
        identities = {
            keys: Account(keys=tuple(map(Secret, keys))).identity for keys in itertools.permutations((FIRST, SECOND, THIRD), 2)
        }
        assert len(set(identities.values())) == 3
        assert identities[FIRST, SECOND] == identities[FIRST, THIRD]
        assert re.fullmatch(r"api\.empiriolabs\.ai#[0-9a-f]{8}", identities[FIRST, SECOND])

    def test_a_key_cannot_be_followed_from_server_to_server(self) -> None:
        """The same key has another fingerprint at another host."""
        here, there = (Account(base_url=url, keys=(Secret(FIRST),)).identity.split("#")[1] for url in (PLATFORM, OTHER))
        assert here != there

    @pytest.mark.parametrize("key", [FIRST, "a", "12345678", "deadbeef"])
    def test_no_key_can_be_read_out_of_it(self, key: str) -> None:
        """32 bits, whatever the key's length, none of which are the key's own characters."""
        host, fingerprint = Account(keys=(Secret(key),)).identity.split("#")
        assert len(fingerprint) == 8
        assert fingerprint not in key
        assert key.encode().hex()[:8] != fingerprint
        assert host == "api.empiriolabs.ai"


def test_an_account_prints_and_encodes_without_its_keys() -> None:
    """Its picture has stars, and a file cannot take it."""
    account = Account(keys=(Secret(FIRST),))
    assert FIRST not in repr(account)
    with pytest.raises(TypeError):
        msgspec.json.encode(account)
