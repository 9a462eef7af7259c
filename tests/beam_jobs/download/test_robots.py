"""Tests robots.txt by the examples of RFC 9309 and Google's documentation, X-Robots-Tag by the conventions in use."""

import time

import pytest

from beam_jobs.download.robots import MAX_BYTES, RobotsCache, RobotsFile, forbids_ai

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


def allows(text, path, *, product="anybot"):
    refusal = RobotsFile(text if isinstance(text, bytes) else text.encode(), product=product).refusal(path)
    assert refusal is None or refusal == f"forbids {path[:200]}"
    return refusal is None


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
    assert allows(GROUPS, path, product=product) is allowed


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
    assert allows(f"User-agent: *\n{rules}", path) is allowed


@pytest.mark.parametrize("rules", ["Disallow: /" + "*a" * 200 + "b$\n", "Disallow: /" + "*a" * 200_000 + "b\n"])
def test_a_hostile_pattern_takes_no_time(rules):
    start = time.process_time()
    assert allows(f"User-agent: *\n{rules}", "/" + "a" * 16_000)
    assert time.process_time() - start < 2  # by backtracking, longer than the universe


HOSTILE = ["Disallow:*ba\n", "Disallow:*b$\n", "Allow: *" + "a" * 30 + "b\n", "Disallow: /*a*a*a*b\n", "Disallow:*\n"]


@pytest.mark.parametrize("rule", HOSTILE)
def test_hostile_rules_in_great_number_are_not_compared_at_all(rule):
    """A file of them would take seconds for each URL of 16 kB, in which no other download could go on."""
    robots = RobotsFile(b"User-agent: *\n" + rule.encode() * 30_000, product="anybot")
    for path in ("/" + "a" * 16_000, "/" + "ab" * 8_000):
        assert "rules with wildcards, too many" in robots.refusal(path)


def test_as_many_rules_as_real_sites_have_are_obeyed():
    rules = "".join(f"Disallow: /*/section{number}/*.jpg$\n" for number in range(3_000))
    robots = RobotsFile(f"User-agent: *\n{rules}".encode(), product="anybot")
    assert robots.refusal("/en/section2999/" + "x" * 800 + ".jpg")
    assert robots.refusal("/en/section3000/" + "x" * 800 + ".jpg") is None


@pytest.mark.parametrize(
    "line",
    ["User-agent: AnyBot/2.1", "user-agent  :  anybot # us", "USER AGENT anybot", "\ufeffUser-agent: *", "useragent *"],
)
def test_our_group_is_found_however_it_is_written(line):
    assert not allows(f"{line}\nDisallow: /x\nUser-agent: other\nDisallow: /y\n", "/x")
    assert allows(f"{line}\nDisallow: /x\nUser-agent: other\nDisallow: /y\n", "/y")


@pytest.mark.parametrize(
    "line", ["User-agent: any", "User-agent: bot", "User-agent: anybot2", "User-agent: any*", "User-agent: -"]
)
@pytest.mark.parametrize("product", ["anybot", "-any bot", "any-bot"])
def test_the_groups_of_others_are_not_ours(line, product):
    assert allows(f"{line}\nDisallow: /\n", "/x", product=product)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_line_that_the_limit_cuts_does_not_count(end):
    """ "Disallow: /" is what would be left of it, which forbids everything."""
    start = f"User-agent: *{end}Disallow: /first{end}"
    filler = "#" * (MAX_BYTES - len(start) - len(end) - len("Disallow: /")) + end
    text = start + filler + f"Disallow: /last{end}"
    assert [allows(text, path) for path in ("/first", "/last", "/other")] == [False, True, True]
    assert allows(b"Disallow: /" + b"x" * MAX_BYTES, "/")


def test_bytes_that_are_no_text_are_read_as_well_as_can_be():
    assert not allows(b"\xff\xfe\x00\nUser-agent: *\nDisallow: /\xff\nDisallow: /x\n", "/x")


@pytest.mark.parametrize(
    "key", ["User-agent:", "useragent", "USER AGENT :", "user" + " " * 16 + "agent", "user-agent\t\t\t"]
)
def test_a_group_of_very_many_crawlers_takes_no_time(key):
    """Each of its rules would be kept for each of its crawlers: 200 million."""
    text = "".join(f"{key} bot{i}\n" for i in range(10_000)) + "Disallow: /x\n" * 10_000
    start = time.process_time()
    robots = RobotsFile(f"{text}User-agent: *\nDisallow: /y\n".encode(), product="anybot")
    assert [robots.refusal("/x"), robots.refusal("/y")] == [None, "forbids /y"]
    assert time.process_time() - start < 5


def test_the_rules_of_the_sites_used_last_are_remembered(monkeypatch):
    monkeypatch.setattr("beam_jobs.download.robots._MAX_SITES", 100)
    cache = RobotsCache()
    first = cache.site(("http", "0.example", 80))
    for number in range(200):
        cache.site(("http", f"{number}.example", 80)).rules = RobotsFile(b"", product="anybot")
        assert cache.site(("http", "0.example", 80)) is first  # used all the time
    assert cache.site(("http", "199.example", 80)).rules is not None
    assert cache.site(("http", "1.example", 80)).rules is None
    monkeypatch.setattr("beam_jobs.download.robots._MAX_TEXT", 1000)
    for number in range(3):
        cache.site(("https", f"{number}.example", 443)).rules = RobotsFile(b"#" * 600, product="anybot")
        cache.trim()
    rules = [cache.site(("https", f"{number}.example", 443)).rules for number in (2, 1, 0)]
    assert [found is None for found in rules] == [False, True, True]


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
