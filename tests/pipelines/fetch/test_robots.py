"""robots.txt is asked once an origin, through the same guard, and obeyed; what cannot be read is no permission."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lposekit.errors import Outcome, Rejected
from pipelines.fetch.deadline import Deadline
from pipelines.fetch.opener import GuardedOpener
from pipelines.fetch.polite import polite_opener
from pipelines.fetch.robots import RobotsRules
from pipelines.fetch.urls import parse_web_url
from tests.pipelines.fetch.conftest import names, opener_for, outcome, quick_settings
from tests.support.bad_server import BadServer
from tests.support.pages import Page, tiny_jpeg

pytestmark = pytest.mark.timeout(180)


def polite(server: BadServer, **changes: object) -> GuardedOpener:
    return polite_opener(
        quick_settings(**changes),
        resolver=names({}),
        allowed_local=frozenset({server.authority}),
        sleep=lambda _: None,
    )


def with_robots(server: BadServer, text: str, **page: object) -> BadServer:
    server.pages["/robots.txt"] = Page(text.encode(), "text/plain", **page)  # type: ignore[arg-type]
    return server


# Mutations: `check` returns early; the full User-Agent is given to the parser; the first rule wins, not the longest.
@pytest.mark.parametrize(
    ("text", "is_allowed"),
    [
        ("User-agent: *\nDisallow: /", False),
        ("User-agent: lposekit\nDisallow: /ok\n", False),
        ("User-agent: LPoseKit\nDisallow: /o*k$\n", False),
        ("User-agent: *\nDisallow: /\nAllow: /ok\n", True),
        ("User-agent: *\nDisallow: /\n\nUser-agent: lposekit\nAllow: /\n", True),
        ("User-agent: otherbot\nDisallow: /\n", True),
        ("User-agent: builder\nDisallow: /\n", True),
        ("User-agent: *\nDisallow:\n", True),
        ("<html>no such page</html>", True),
        ("", True),
    ],
)
def test_the_rules_for_us_are_obeyed(server: BadServer, text: str, is_allowed: bool) -> None:
    opener = polite(with_robots(server, text))
    if is_allowed:
        assert opener.fetch(f"{server.url}/ok").body == tiny_jpeg()
    else:
        assert outcome(opener, f"{server.url}/ok") is Outcome.ROBOTS
        assert server.hits_of("/ok") == []
    assert len(server.hits_of("/robots.txt")) == 1


def test_the_switch_is_a_setting(server: BadServer) -> None:
    opener = polite(with_robots(server, "User-agent: *\nDisallow: /"), robots=False)
    assert opener.fetch(f"{server.url}/ok").body == tiny_jpeg()
    assert server.hits_of("/robots.txt") == []


# Mutation: no lock in `check` (every thread asks).
def test_many_threads_ask_once(server: BadServer) -> None:
    opener = polite(with_robots(server, "User-agent: *\nDisallow: /private"))
    with ThreadPoolExecutor(8) as threads:
        bodies = list(threads.map(lambda _: opener.fetch(f"{server.url}/ok").body, range(40)))
    assert bodies == [tiny_jpeg()] * 40
    assert len(server.hits_of("/robots.txt")) == 1


# Mutation: an opener for robots.txt that tries once (one lost packet turns down the host's rows for a minute).
def test_a_passing_failure_of_robots_txt_is_tried_again(server: BadServer) -> None:
    server.pages["/robots.txt"] = Page(b"", headers=(("Location", "/busy/503/1"),), status=301)
    assert polite(server).fetch(f"{server.url}/ok").body == tiny_jpeg()


# Mutations: the two verdicts exchanged; 429 treated as 404.
@pytest.mark.parametrize(
    ("status", "is_allowed"), [(404, True), (403, True), (410, True), (429, False), (500, False), (503, False)]
)
def test_no_file_allows_all_and_a_failing_server_nothing(server: BadServer, status: int, is_allowed: bool) -> None:
    opener = polite(with_robots(server, "sorry", status=status))
    for _ in range(3):
        if is_allowed:
            assert opener.fetch(f"{server.url}/ok").body == tiny_jpeg()
        else:
            assert outcome(opener, f"{server.url}/ok") is Outcome.ROBOTS
    assert len(server.hits_of("/robots.txt")) == (1 if is_allowed else 3)  # once, and two more tries
    assert len(server.hits_of("/ok")) == (3 if is_allowed else 0)


def test_redirects_are_followed_and_a_loop_means_no_file(server: BadServer) -> None:
    server.pages["/robots.txt"] = Page(b"", headers=(("Location", "/moved.txt"),), status=301)
    server.pages["/moved.txt"] = Page(b"User-agent: *\nDisallow: /ok")
    assert outcome(polite(server), f"{server.url}/ok") is Outcome.ROBOTS
    server.pages["/robots.txt"] = Page(b"", headers=(("Location", "/loop"),), status=301)
    assert polite(server).fetch(f"{server.url}/ok").body == tiny_jpeg()


# Mutation: let `_verdict_on_failure` allow everything; or call a dead host `robots`.
def test_a_host_that_cannot_be_reached_keeps_its_own_reason(server: BadServer) -> None:
    assert outcome(polite(server), "http://nowhere.test/a.jpg") is Outcome.DNS
    assert outcome(polite(server), "http://10.0.0.1/a.jpg") is Outcome.PRIVATE_ADDRESS
    with BadServer() as gone:
        pass
    assert outcome(polite(gone), f"{gone.url}/ok") is Outcome.CONNECT


def test_a_robots_file_that_leads_inside_is_refused(server: BadServer, other_server: BadServer) -> None:
    server.pages["/robots.txt"] = Page(b"", headers=(("Location", f"{other_server.url}/ok"),), status=301)
    assert outcome(polite(server), f"{server.url}/ok") is Outcome.PRIVATE_ADDRESS
    assert other_server.num_connections == 0


# Mutation: no cap, or TOO_BIG treated as a failure.
def test_of_a_huge_file_the_first_half_mebibyte_counts(server: BadServer) -> None:
    rules = "User-agent: *\nDisallow: /ok\n" + "# filler\n" * 100_000
    assert outcome(polite(with_robots(server, rules)), f"{server.url}/ok") is Outcome.ROBOTS
    late = "# filler\n" * 100_000 + "User-agent: *\nDisallow: /ok\n"
    assert polite(with_robots(server, late)).fetch(f"{server.url}/ok").body == tiny_jpeg()


# Mutation: drop the limit of agents times rules (minutes of CPU).
@pytest.mark.timeout(180)
def test_a_robots_file_made_to_hurt_is_not_evaluated(server: BadServer) -> None:
    agents = "".join(f"User-agent: a{number}\n" for number in range(10_000))
    rules = "".join(f"Disallow: /{number}\n" for number in range(10_000))
    assert outcome(polite(with_robots(server, agents + rules)), f"{server.url}/ok") is Outcome.ROBOTS


# Mutation: `>=` in place of `>` for the limit.
@pytest.mark.parametrize(("limit", "is_allowed"), [(6, True), (5, False)])
def test_as_many_agents_and_rules_as_the_limit_are_evaluated(
    server: BadServer, monkeypatch: pytest.MonkeyPatch, limit: int, is_allowed: bool
) -> None:
    monkeypatch.setattr("pipelines.fetch.robots.MAX_AGENTS_TIMES_RULES", limit)
    rules = RobotsRules(opener_for(with_robots(server, "Agent: a\nAgent: b\n" + "Allow: /\n" * 3)), "lposekit")
    assert is_asked(rules, server) == is_allowed


def is_asked(rules: RobotsRules, server: BadServer) -> bool:
    """Whether the rules let a page of the server be fetched."""
    try:
        rules.check(parse_web_url(f"{server.url}/ok"), Deadline.start(3, 1))
    except Rejected:
        return False
    return True


# Mutations: the two times exchanged; what is known asked again each time.
def test_an_answer_is_kept_long_and_a_failure_shortly(server: BadServer) -> None:
    opener = opener_for(with_robots(server, "", status=503), retries=0)
    rules = RobotsRules(opener, "lposekit", keep_s=1000, keep_failure_s=0)
    assert not is_asked(rules, server)
    with_robots(server, "User-agent: *\nDisallow: /private")
    assert [is_asked(rules, server) for _ in range(3)] == [True] * 3
    assert len(server.hits_of("/robots.txt")) == 2


# Mutation: `>=` in place of `>` for the number of origins.
def test_as_many_origins_as_asked_for_are_remembered(server: BadServer, other_server: BadServer) -> None:
    rules = RobotsRules(opener_for(server, other_server), "lposekit", max_origins=2)
    for each in (server, other_server) * 3:
        with_robots(each, "")
        assert is_asked(rules, each)
    assert [len(each.hits_of("/robots.txt")) for each in (server, other_server)] == [1, 1]


def test_robots_txt_shares_the_time_of_its_row(server: BadServer) -> None:
    server.pages["/robots.txt"] = Page(b"", headers=(("Location", "/mute"),), status=302)
    opener = polite(server, idle_timeout_s=5.0, total_timeout_s=0.8)
    with pytest.raises(Rejected) as caught:
        opener.fetch(f"{server.url}/ok")
    assert caught.value.outcome is Outcome.TIMEOUT


# Mutations: no `MAX_WILDCARDS_TIMES_URL` (0.1 s of CPU and more a row); no `MAX_LINES` (as long for each host).
@pytest.mark.case(62)
@pytest.mark.parametrize(
    "rules",
    [
        "Disallow: /*a*b$\n" * 9_000,
        "Disallow: /" + "*a" * 200_000,
        "Disallow: /*a*a*a*a*a*a*a{}b$\n",
        "Disallow: /{}\n",
    ],
    ids=["many", "one", "different", "plain"],
)
def test_rules_made_to_be_slow_cost_a_long_address_little(server: BadServer, rules: str) -> None:
    text = "".join(rules.format(number) for number in range(30_000)) if "{" in rules else rules
    opener = polite(with_robots(server, f"User-agent: *\n{text}"[: 512 * 1024]))
    url = f"{server.url}/ok?" + "a" * 8_000
    assert outcome(opener, url) is Outcome.ROBOTS
    started_s = time.process_time()
    for _ in range(20):
        assert outcome(opener, url) is Outcome.ROBOTS
    assert time.process_time() - started_s < 0.4
    assert len(server.hits_of("/robots.txt")) == 1


# Mutation: a file is parsed at each check (20 ms of CPU each).
@pytest.mark.case(62)
def test_rules_are_parsed_once_a_host(server: BadServer) -> None:
    rules = RobotsRules(opener_for(with_robots(server, "User-agent: *\n" + "Disallow: /a\n" * 4_000)), "lposekit")
    assert is_asked(rules, server)
    started_s = time.process_time()
    assert all(is_asked(rules, server) for _ in range(200))
    assert time.process_time() - started_s < 0.2


# Mutations: no `_has_room` (all five are parsed); small files turned down too; nothing forgotten (`_num_lines` grows).
@pytest.mark.case(62, 87)
def test_large_files_of_many_hosts_take_no_more_than_their_share(server: BadServer) -> None:
    hosts = {f"h{number}.test": ["127.0.0.1"] for number in range(40)}
    opener = GuardedOpener(quick_settings(), allow_private_addresses=True, resolver=names(hosts))
    rules = RobotsRules(opener, "lposekit", max_lines=9_100)

    def is_free(number: int) -> bool:
        try:
            rules.check(parse_web_url(server.url_as(f"h{number}.test") + "/ok"), Deadline.start(3, 1))
        except Rejected:
            return False
        return True

    with_robots(server, "User-agent: *\n" + "Disallow: /a\n" * 1_500)
    assert [is_free(number) for number in range(5)] == [True, True, False, False, False]
    with_robots(server, "User-agent: *\n" + "Disallow: /a\n" * 900)
    assert all(is_free(number) for number in range(10, 40))
    assert rules._num_lines <= 9_100 + 901
    asked = len(server.hits_of("/robots.txt"))
    assert is_free(39)
    assert len(server.hits_of("/robots.txt")) == asked
    assert is_free(10)
    assert len(server.hits_of("/robots.txt")) == asked + 1, "the one asked longest ago was forgotten"
