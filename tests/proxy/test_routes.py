"""Tests of safety_proxy/proxy/routes.py: what is decided on every route and every trap."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safety_proxy.errors import MalformedRequest, SafetyProxyError, UnknownRoute
from safety_proxy.proxy import routes
from safety_proxy.proxy.routes import Kind, Route, parse_query, resolve

KNOWN = [
    ("GET", "/healthz"),
    ("GET", "/image/backgrounded/claim"),
    ("GET", "/image/delete/token/a.png"),
    ("DELETE", "/image/delete/token/a.png"),
    ("GET", "/image/original/a.png"),
    ("HEAD", "/image/original/a.png"),
    ("GET", "/image/original"),
    ("HEAD", "/image/original"),
    ("GET", "/image/process.jpg"),
    ("HEAD", "/image/process.jpg"),
    ("GET", "/image/process_backgrounded.webp"),
    ("GET", "/image/details/original"),
    ("GET", "/image/details/original/a.png"),
    ("GET", "/image/details/process.avif"),
    ("GET", "/image/blurhash"),
    ("GET", "/internal/hashes"),
    ("POST", "/internal/purge"),
    ("POST", "/internal/delete"),
    ("GET", "/internal/aliases"),
    ("GET", "/internal/identifier"),
    ("POST", "/internal/set_not_found"),
    ("POST", "/internal/prune_missing"),
    ("DELETE", "/internal/variants"),
    ("POST", "/internal/export"),
    ("GET", "/internal/limits"),
]


@pytest.mark.parametrize(("method", "path"), KNOWN)
def test_routes_that_store_nothing_pass(method: str, path: str) -> None:
    """Path as it was; of the query what pict-rs reads, byte for byte."""
    query = (
        "%61lias=a%2Fb+c%20%25&resize=%31&upload_id=%41&limit=+1&slug=%2B&timestamp=:&force=true"
    )
    route = resolve(method, path, f"x=https://private&{query}&&=&y&PROXY=z")
    assert (route.kind, route.method, route.path) == (Kind.PASS, method, path)
    kept = {
        "/image/backgrounded/claim": "upload_id=%41",
        "/internal/hashes": "limit=+1&slug=%2B&timestamp=:",
        "/internal/prune_missing": "force=true",
    }
    row = next(row for row in routes._TABLE if routes._fits(row, path.split("/")[1:]))
    by_source = "%61lias=a%2Fb+c%20%25&resize=%31" if row.by_address else ""
    assert route.query == kept.get(path, by_source)


def test_every_row_that_passes_is_in_the_list_above() -> None:
    """A new row needs its test."""
    passing = {
        (method, row.path)
        for row in routes._TABLE
        if row.kind is Kind.PASS
        for method in row.methods.split()
    }
    tested = {
        (method, row.path)
        for method, path in KNOWN
        for row in routes._TABLE
        if routes._fits(row, path.split("/")[1:])
    }
    assert passing == tested


@pytest.mark.parametrize(
    ("method", "path", "query", "stored_by"),
    [
        ("POST", "/image", "", "/image"),
        ("POST", "/%69mage", "", "/image"),
        ("POST", "/%69%6D%61%67%65", "", "/image"),
        ("POST", "/image/background%65d", "", "/image/backgrounded"),
        ("POST", "http://other/%69mage", "", "/image"),
        ("POST", "HTTPS://user@other:1/image", "", "/image"),
        ("POST", "/internal/im%70ort", "", "/internal/import"),
        ("GET", "/image/download", "url=x", "/image"),
        ("GET", "/image/downloa%64", "url=x", "/image"),
        ("GET", "/imag%65/%64ownload", "url=x&backgrounded=true", "/image/backgrounded"),
    ],
)
def test_storing_routes_are_known_in_every_spelling(
    method: str, path: str, query: str, stored_by: str
) -> None:
    """pict-rs decodes before it matches, and so do we; what is forwarded has one spelling."""
    route = resolve(method, path, query)
    assert route.kind is (Kind.UPLOAD if method == "POST" else Kind.DOWNLOAD)
    assert (route.method, route.path) == ("POST", stored_by)


ADDRESS = "http://x.example/a.png"
BY_ADDRESS = [
    ("GET", "/image/original", Kind.PROXIED),
    ("HEAD", "/image/original", Kind.LOOKUP),
    ("GET", "/image/%6Friginal", Kind.PROXIED),
    ("GET", "/image/process.jpg", Kind.PROXIED),
    ("GET", "/image/process.xyz", Kind.PROXIED),
    ("GET", "/image/process%2Exyz", Kind.PROXIED),
    ("GET", "/image/process.a%2Fb", Kind.PROXIED),
    ("HEAD", "/image/process.jpg", Kind.LOOKUP),
    ("GET", "/image/process_backgrounded.jpg", Kind.LOOKUP),
    ("GET", "/image/details/original", Kind.LOOKUP),
    ("GET", "/image/details/process.jpg", Kind.LOOKUP),
    ("GET", "/image/blurhash", Kind.PROXIED),
    ("POST", "/internal/purge", Kind.FORGET),
    ("POST", "/internal/delete", Kind.FORGET),
    ("GET", "/internal/aliases", Kind.LOOKUP),
    ("GET", "/internal/identifier", Kind.LOOKUP),
]


@pytest.mark.parametrize(
    "query",
    [
        f"proxy={ADDRESS}",
        f"proxy={quote(ADDRESS, safe='')}",
        f"pro%78y={ADDRESS}",
        f"%70%72%6F%78%79={ADDRESS}",
        f"&&proxy={ADDRESS}&&",
        f"x=%ff&proxy={ADDRESS}",
    ],
)
@pytest.mark.parametrize(("method", "path", "kind"), BY_ADDRESS)
def test_proxying_is_known_in_every_spelling(
    method: str, path: str, kind: Kind, query: str
) -> None:
    """The address is taken out: pict-rs is asked by alias, and sees nothing of it."""
    route = resolve(method, path, query)
    assert (route.kind, route.address, route.query) == (kind, ADDRESS, "")
    asked = route.by_alias("a/b.png")
    assert asked == Route(Kind.PASS, method, route.path, "alias=a%2Fb.png")


@pytest.mark.parametrize(
    "query",
    [
        f"alias=a&proxy={ADDRESS}",
        f"proxy={ADDRESS}&alias=a",
        f"src=a&proxy={ADDRESS}",
        f"src=a&src=b&proxy={ADDRESS}",
        f"alias=a&alias=b&proxy={ADDRESS}",
        "proxy=a&proxy=b",
        f"proxy={ADDRESS}&pro%78y=b",
        f"alias=a&proxy={ADDRESS}?alias=b",
    ],
)
@pytest.mark.parametrize(("method", "path", "kind"), BY_ADDRESS)
def test_address_beside_another_source_is_refused(
    method: str, path: str, kind: Kind, query: str
) -> None:
    """Which of them pict-rs takes depends on the route; none of them is taken here."""
    with pytest.raises(MalformedRequest) as caught:
        resolve(method, path, query)
    assert caught.value.code == "invalid-query"


@pytest.mark.parametrize(
    "address",
    [
        "https://h.example/x.png",
        "https://h.example/x.png?a=1&b=2",
        "https://h.example/x.png?a=1&src=stored.png&alias=stored.png",
        "https://h.example/x.png?a=1&proxy=https://other.example/y.png",
        "https://h.example/x.png?url=https%3A%2F%2Fi.example%2Fy%3Fz%3D1%26w%3D2",
        "https://h.example/a%2Bb%2Fc%25d+e.png?signature=a%2Fb%3D%3D&x=%20+",
        "https://h.example/?thumbnail=5&blur=9&resize=1",
        "https://h.example/x.png?",
    ],
)
@pytest.mark.parametrize(
    ("path", "added", "operations"),
    [
        ("/image/original", "", ""),
        ("/image/process.jpg", "&thumbnail=256", "thumbnail=256"),
        ("/image/details/original", "", ""),
    ],
)
def test_address_that_lemmy_left_as_it_was_meets_the_encoded_one(
    address: str, path: str, added: str, operations: str
) -> None:
    """What stands in its query is the remote side's, and does nothing here."""
    raw = resolve("GET", path, f"proxy={address}{added}")
    encoded = resolve("GET", path, f"proxy={quote(address, safe='')}{added}")
    assert (raw.address, raw.query) == (encoded.address, encoded.query) == (address, operations)


def test_operations_beside_an_address_are_kept_and_others_are_not() -> None:
    """Written anew; pict-rs ignores what it does not know, and so it is left out."""
    route = resolve("GET", "/image/process.webp", f"blur=1+5&x=y&proxy={ADDRESS}&thumbnail=20&b=2")
    assert (route.address, route.query) == (ADDRESS, "blur=1%205&thumbnail=20")
    assert route.by_alias("a").query == "alias=a&blur=1%205&thumbnail=20"


@pytest.mark.parametrize("query", ["PROXY=x", "x=1;proxy=y", "proxy%20=x", "proxy[]=x", "aproxy=x"])
def test_keys_that_pictrs_does_not_read_as_proxy_are_left_out(query: str) -> None:
    """They mean nothing to it, and may hold an address."""
    for path in ("/image/original", "/image/original/a.png", "/internal/hashes"):
        route = resolve("GET", path, f"{query}&alias=a")
        assert (route.kind, route.query) in {(Kind.PASS, "alias=a"), (Kind.PASS, "")}


@pytest.mark.parametrize(
    "query", ["src=a&src=b", "alias=a&alias=b", "src=a&alias=b", "src=a&s%72c=b", "alias&alias"]
)
def test_more_than_one_source_is_refused(query: str) -> None:
    """A doubled one makes pict-rs fall through to another kind of source."""
    for path in ("/image/original", "/image/process.jpg", "/image/details/process.jpg"):
        with pytest.raises(MalformedRequest) as caught:
            resolve("GET", path, query)
        assert caught.value.code == "invalid-query"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("GET", "/"),
        ("GET", "*"),
        ("GET", "/image"),
        ("PUT", "/image"),
        ("OPTIONS", "/image"),
        ("post", "/image"),
        ("POST", "/image/"),
        ("POST", "//image"),
        ("POST", "/IMAGE"),
        ("POST", "/image;x"),
        ("POST", "/./image"),
        ("POST", "/x/../image"),
        ("POST", "/image%2Fbackgrounded"),
        ("POST", "/image/download"),
        ("HEAD", "/image/download"),
        ("GET", "/image%2Fdownload"),
        ("GET", "/image/./download"),
        ("GET", "/image/x/../download"),
        ("GET", "/image//download"),
        ("GET", "/image/delete/../download"),
        ("GET", "/image/delete/%2e%2e/download"),
        ("GET", "/image/delete/x/.."),
        ("GET", "/image/original/.."),
        ("GET", "/image/original/%2E%2E"),
        ("GET", "/image/original/."),
        ("GET", "/image/original;x"),
        ("GET", "/image/original/"),
        ("GET", "/image/original/a/b"),
        ("GET", "/image/original%00"),
        ("GET", "/image/process"),
        ("GET", "/image/process."),
        ("GET", "/image/processXjpg"),
        ("POST", "/image/original"),
        ("POST", "/healthz"),
        ("HEAD", "/healthz"),
        ("GET", "/internal/import"),
        ("GET", "/internal/purge"),
        ("POST", "/internal/hashes"),
        ("GET", "/internal"),
        ("GET", "/metrics"),
        ("GET", "ftp://other/image/original"),
        ("POST", "http://other"),
        ("POST", "http://other/x/image"),
        ("POST", "x/http://other/image"),
        ("CONNECT", "other:443"),
    ],
)
def test_everything_else_is_unknown(method: str, path: str) -> None:
    """What is not in the table is never passed on."""
    with pytest.raises(UnknownRoute):
        resolve(method, path, "")


@pytest.mark.parametrize(
    ("raw", "written"),
    [
        ("a%2Fb", "a%2Fb"),
        ("a b".replace(" ", "%20"), "a%20b"),
        ("%C3%A9.png", "%C3%A9.png"),
        ("é.png", "%C3%A9.png"),
        ("%2561", "%2561"),
        ("%61", "a"),
        ("a;b=c", "a%3Bb%3Dc"),
        ("a?b".replace("?", "%3F"), "a%3Fb"),
        ("%23", "%23"),
        ("..%2F..%2Fdownload", "..%2F..%2Fdownload"),
    ],
)
def test_names_in_a_path_are_written_anew_and_stay_one_segment(raw: str, written: str) -> None:
    """What a segment decodes to, and no more, arrives in one segment again."""
    assert resolve("GET", f"/image/original/{raw}", "").path == f"/image/original/{written}"


@pytest.mark.parametrize("raw", ["\udcff", "a#b=c"])
def test_request_line_that_is_no_address_is_refused(raw: str) -> None:
    """Bytes that are not UTF-8, and a fragment, which a server may read or drop."""
    with pytest.raises(MalformedRequest):
        resolve("GET", "/image/original", f"alias={raw}")


def test_path_that_is_not_utf8_is_refused() -> None:
    """Such bytes arrive as surrogates."""
    with pytest.raises(MalformedRequest):
        resolve("GET", "/image/original/\udcff", "")


_RAW = st.text(
    st.one_of(st.sampled_from("proxyPROXY%&=+;#78?/.\udcff"), st.characters(max_codepoint=255)),
    max_size=30,
)
_PROXY_SPELLINGS = st.lists(st.sampled_from("proxy"), min_size=5, max_size=5).flatmap(
    lambda _: st.tuples(
        *(st.sampled_from([c, f"%{ord(c):02x}", f"%{ord(c):02X}"]) for c in "proxy")
    )
)
_PROXYING = [row for row in routes._TABLE if row.by_address]


@given(before=_RAW, key=_PROXY_SPELLINGS, after=_RAW, row=st.sampled_from(_PROXYING))
def test_no_query_hides_a_proxy_key(
    before: str, key: tuple[str, ...], after: str, row: routes._Row
) -> None:
    """Whatever stands around it, and however it is escaped, `proxy` is never passed on."""
    path = "/" + row.path.replace("*", "jpg")
    try:
        route = resolve(row.methods, path, f"{before}&{''.join(key)}=x&{after}")
    except SafetyProxyError:
        return
    assert route.kind is row.by_address
    assert {key for key, _ in parse_query(route.query)} <= routes._OPERATIONS


@given(path=_RAW, query=_RAW)
def test_nothing_unforeseen_is_raised_or_passed(path: str, query: str) -> None:
    """Any request line ends in a row of the table or in an error of ours."""
    try:
        route = resolve("GET", f"/image/{path}", query)
    except SafetyProxyError:
        return
    keys = [key for key, _ in parse_query(route.query)]
    assert "proxy" not in keys
    assert route.path.isascii()


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), max_size=4))
def test_written_query_reads_back(pairs: list[tuple[str, str]]) -> None:
    """What is written anew decodes to the same pairs."""
    kept = [(k, v) for k, v in pairs if not any("\ud800" <= c <= "\udfff" for c in k + v)]
    assert parse_query(routes.write_query(kept)) == kept


@pytest.mark.parametrize(
    ("raw", "written"),
    [
        ("", ""),
        ("resize=10", "resize=10"),
        ("r%65size=10&&allow_video=false", "resize=10&allow_video=false"),
        ("crop=16x9&blur=1.5&identity=true", "crop=16x9&blur=1.5&identity=true"),
        ("resize=a%26proxy%3Db", "resize=a%26proxy%3Db"),
        ("thumbnail=1+2", "thumbnail=1%202"),
    ],
)
def test_upload_query_is_written_anew(raw: str, written: str) -> None:
    """Known keys, decoded once and escaped once."""
    for path in ("/image", "/image/backgrounded", "/internal/import"):
        assert resolve("POST", path, raw).query == written
    assert resolve("GET", "/image/download", f"{raw}&url=x").query == written


@pytest.mark.parametrize("raw", ["proxy=x", "Resize=1", "resize%00=1", "=1", "x"])
def test_unknown_key_of_an_upload_is_refused(raw: str) -> None:
    """pict-rs would answer 500; and `proxy` is no key of it."""
    for method, path, query in (
        ("POST", "/image", ""),
        ("POST", "/image", "url=x"),
        ("POST", "/internal/import", ""),
        ("GET", "/image/download", "url=x"),
    ):
        with pytest.raises(MalformedRequest) as caught:
            resolve(method, path, f"{query}&{raw}")
        assert caught.value.code == "invalid-query"


@pytest.mark.parametrize(
    "inner",
    [
        "https://x.example/a.png",
        "https://x.example/a%2Bb%2Fc%27d%25e%28f?x=%2B&y=1",
        "https://x.example/a b é+c",
        "https://x.example/a?proxy=b&url=c#d",
    ],
)
def test_address_is_decoded_once(inner: str) -> None:
    """Its own escapes stay."""
    escaped = quote(inner, safe="")
    route = resolve("GET", "/image/download", f"resize=5&%75rl={escaped}&backgrounded=false")
    assert (route.address, route.query) == (inner, "resize=5")
    assert resolve("GET", "/image/original", f"proxy={escaped}").address == inner


@pytest.mark.parametrize("raw", ["", "resize=1", "url=a&url=b", "url=a&u%72l=b", "URL=a"])
def test_download_needs_one_address(raw: str) -> None:
    """Two would let us judge one and pict-rs store the other."""
    with pytest.raises(MalformedRequest) as caught:
        resolve("GET", "/image/download", raw)
    assert caught.value.code == "invalid-query"


@pytest.mark.parametrize("value", ["TRUE", "1", "", "false&backgrounded=true"])
def test_download_is_in_the_background_or_not(value: str) -> None:
    """As pict-rs reads it: two words, one of them once."""
    with pytest.raises(MalformedRequest):
        resolve("GET", "/image/download", f"url=x&backgrounded={value}")
