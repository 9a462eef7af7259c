"""Tests robots.txt by the examples of RFC 9309 and Google's documentation, X-Robots-Tag by the conventions in use."""

import time

import pytest

from beam_jobs.download.robots import RobotsCache, RobotsFile, forbids_ai

GROUPS = """
User-agent: foobot
Disallow: /example/page.html
Disallow: /example/disallowed.gif

User-Agent: barbot
User-Agent: BazBot
Disallow: /example/page.html   # comment

User-Agent: *
Disallow: *.gif$
Disallow: /example/
Allow: /publications/

User-Agent: quxbot
"""


@pytest.mark.parametrize(
    ("product", "path", "allowed"),
    [
        ("foobot", "/example/page.html", False),
        ("foobot", "/example/other.html", True),
        ("FooBot", "/example/disallowed.gif", False),
        ("bazbot", "/example/page.html", False),
        ("bazbot", "/a.gif", True),
        ("other", "/a.gif", False),
        ("other", "/a.gif?size=1", True),
        ("other", "/example/x", False),
        ("other", "/publications/example/x", True),
        ("quxbot", "/example/page.html", True),
        ("other", "/robots.txt", True),
    ],
)
def test_groups_of_rfc_9309(product, path, allowed):
    assert RobotsFile(GROUPS, product=product).allows(path) is allowed


@pytest.mark.parametrize(
    ("rules", "path", "allowed"),
    [  # https://developers.google.com/search/docs/crawling-indexing/robots/robots_txt#order-of-precedence-for-rules
        ("allow: /p\ndisallow: /", "/page", True),
        ("allow: /folder\ndisallow: /folder", "/folder/page", True),
        ("allow: /page\ndisallow: /*.htm", "/page.htm", False),
        ("allow: /page\ndisallow: /*.ph", "/page.php5", True),
        ("allow: /$\ndisallow: /", "/", True),
        ("allow: /$\ndisallow: /", "/page.htm", False),
        ("disallow: /fish*.php", "/fishheads/catfish.php?parameters", False),
        ("disallow: /fish*.php", "/Fish.PHP", True),
        ("disallow: /*.php$", "/folder/filename.php", False),
        ("disallow: /*.php$", "/filename.php/", True),
        ("disallow:", "/anything", True),
        ("disallow: /a%3cd.html", "/a%3Cd.html", False),
        ("disallow: /a/ツ", "/a/%E3%83%84", False),
        ("disallow: /%62%61%72", "/bar", False),
        ("disallow: /a%2Fb", "/a/b", True),
        ("nonsense\ndisallow /x\ndisallow: /y", "/x", False),  # a space for the colon, as Google reads it
    ],
)
def test_longest_match_wildcards_and_encodings(rules, path, allowed):
    assert RobotsFile(f"User-agent: *\n{rules}", product="anybot").allows(path) is allowed


def test_hostile_patterns_take_no_time():
    robots = RobotsFile("User-agent: *\nDisallow: /" + "*a" * 200 + "b$\n", product="anybot")
    start = time.monotonic()
    assert robots.allows("/" + "a" * 100_000)
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("key", ["User-agent:", "useragent", "USER AGENT :"])
def test_a_group_of_very_many_crawlers_takes_no_time(key):
    """Each of its rules would be kept for each of its crawlers: 200 million."""
    text = "".join(f"{key} bot{i}\n" for i in range(20_000)) + "Disallow: /x\n" * 10_000
    start = time.monotonic()
    robots = RobotsFile(text + "User-agent: *\nDisallow: /y\n", product="anybot")
    assert [robots.allows("/x"), robots.allows("/y")] == [True, False]
    assert time.monotonic() - start < 5


def test_the_rules_of_few_sites_are_remembered(monkeypatch):
    cache = RobotsCache()
    first = cache.site(("http", "0.example", 80))
    for number in range(2000):
        cache.site(("http", f"{number}.example", 80)).rules = RobotsFile("", product="anybot")
        assert cache.site(("http", "0.example", 80)) is first  # used all the time
    assert cache.site(("http", "1999.example", 80)).rules is not None
    assert cache.site(("http", "1.example", 80)).rules is None
    monkeypatch.setattr("beam_jobs.download.robots._MAX_TEXT", 1000)
    for number in range(3):
        cache.site(("https", f"{number}.example", 443)).rules = RobotsFile("#" * 600, product="anybot")
        cache.trim()
    assert [cache.site(("https", f"{number}.example", 443)).rules is None for number in (2, 1, 0)] == [
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([], None),
        (["noindex, nofollow"], None),
        (["noai"], "noai"),
        (["noindex, NoImageAI"], "noimageai"),
        (["noindex", "noai, noimageai"], "noai"),
        (["otherbot: noai"], None),
        (["otherbot: noindex, noai"], None),
        (["MyBot: noai"], "noai"),
        (["otherbot: noindex, mybot: noai"], "noai"),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST, noai"], "noai"),
        (["max-image-preview: large"], None),
    ],
)
def test_noai_headers(headers, found):
    assert forbids_ai(headers, product="mybot") == found
